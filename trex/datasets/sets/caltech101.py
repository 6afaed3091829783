"""Caltech-101: one folder per category, without an official list of training images.

The protocol is 30 training images per category; the rest are test images. With the background category, as in "Do
Better ImageNet Models Transfer Better?" (arXiv 1805.08974, table 1), the counts are 102 classes, 3060 and 6084 images.
Results are usually given as mean per-class accuracy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from trex.datasets.imagefolder import image_names, is_foreign
from trex.datasets.record import Counts, Dataset, Listing, SplitListing
from trex.errors import UserError

TRAIN_IMAGES = 30  #: per category
_INNER = ("101_ObjectCategories", "caltech-101/101_ObjectCategories", "caltech101/101_ObjectCategories")


def read_caltech101(folder: Path) -> Listing:
    """Reads Caltech-101. The training images are, per category, the 30 with the smallest SHA-256 of `category/name`,
    where the name has no extension. Labels follow the sorted names of the folders.

    The split depends on the names only, so it is the same on every machine and with every library version.
    """
    base = next((folder / name for name in _INNER if (folder / name).is_dir()), folder)
    classes = sorted(path.name for path in base.iterdir() if path.is_dir() and not is_foreign(path.name))
    if not classes:
        raise UserError(f"{base}: expected one folder per category here, or in 101_ObjectCategories/ here")
    trainval, test = SplitListing([], []), SplitListing([], [])
    for label, name in enumerate(classes):
        images = sorted(image_names(base / name))
        chosen = set(sorted(images, key=lambda image: _digest(name, image))[:TRAIN_IMAGES])
        for image in images:
            split = trainval if image in chosen else test
            split.names.append(f"{name}/{image}")
            split.labels.append(label)
    return Listing(tuple(classes), trainval, test, folder=base)


def _digest(category: str, image: str) -> bytes:
    return hashlib.sha256(f"{category}/{Path(image).stem}".encode()).digest()


DATASETS = (
    Dataset(
        "caltech101",
        read_caltech101,
        Counts(classes=102, trainval=3060, test=6084),
        steps="Download caltech-101.zip from https://data.caltech.edu/records/mzrjq-6wc02 and unpack it, and the "
        "101_ObjectCategories.tar.gz in it, into the folder above.",
    ),
)
