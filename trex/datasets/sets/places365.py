"""Places365-Standard, as folders.

Counts: http://places2.csail.mit.edu/download.html, 1,803,460 training and 36,500 validation images of 365 classes.
"""

from __future__ import annotations

from pathlib import Path

from trex.datasets.imagefolder import image_names
from trex.datasets.layout import find_base
from trex.datasets.record import Counts, Dataset, Listing, SplitListing
from trex.errors import UserError


def read_places365(folder: Path) -> Listing:
    """Reads `train/` and `val/`. A class is a folder that holds images, at any depth: `airfield/` as in the archive for
    PyTorch, or `a/airfield/`, `a/apartment_building/outdoor/` as in the lists. Labels follow the sorted paths.
    """
    base = find_base(folder, ("train", "val"), ("places365_standard", "places365standard_easyformat"))
    images = {split: sorted(_images(base / split)) for split in ("train", "val")}
    classes = sorted({_class(name) for name in images["train"]})
    label_of = {name: label for label, name in enumerate(classes)}
    for name in images["val"]:
        if _class(name) not in label_of:
            raise UserError(f"{base / 'val' / name}: the class {_class(name)!r} has no images in {base / 'train'}")

    def split(name: str) -> SplitListing:
        return SplitListing([f"{name}/{path}" for path in images[name]], [label_of[_class(p)] for p in images[name]])

    return Listing(tuple(classes), split("train"), split("val"), folder=base)


def _images(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"{folder}: expected this folder, with folders of images in it")
    names = image_names(folder)
    if loose := next((name for name in names if "/" not in name), None):
        raise UserError(f"{folder / loose}: expected images in one folder per class only, as {folder}/airfield/{loose}")
    return names


def _class(name: str) -> str:
    return name.rpartition("/")[0]


DATASETS = (
    Dataset(
        "places365",
        read_places365,
        Counts(classes=365, trainval=1803460, test=36500),
        steps="Download the version of Places365-Standard with one folder per class, places365standard_easyformat.tar, "
        "from http://places2.csail.mit.edu/download.html, and unpack it into the folder above.",
    ),
)
