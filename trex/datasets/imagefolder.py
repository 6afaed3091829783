"""Reads image folders: one folder per split, and in it one folder of images per class, as in ImageNet-1K."""

from __future__ import annotations

import os
from pathlib import Path

from trex.datasets.record import Listing, SplitListing
from trex.errors import UserError

EXTENSIONS = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_FOLDERS = {"trainval": ("train", "trainval"), "test": ("val", "test")}


def read_image_folder(folder: Path) -> Listing:
    """Reads `train/` (or `trainval/`) and `val/` (or `test/`), with one folder per class.

    A class's label is its index in the sorted list of class names.

    Raises:
        UserError: if a split or its class folders are missing, a class is empty, or the splits' classes differ.
    """
    found = {split: _split_folder(folder, options) for split, options in _FOLDERS.items()}
    classes = {split: _classes(path) for split, path in found.items()}
    if classes["trainval"] != classes["test"]:
        unmatched = sorted(set(classes["trainval"]) ^ set(classes["test"]))
        raise UserError(
            f"{folder}: {found['trainval'].name}/ has {len(classes['trainval'])} classes and {found['test'].name}/ has "
            f"{len(classes['test'])}, expected the same classes in both; only in one of them: "
            f"{', '.join(unmatched[:5])}{'…' if len(unmatched) > 5 else ''}"
        )
    images = {split: _images(folder, path, classes[split]) for split, path in found.items()}
    return Listing(tuple(classes["trainval"]), images["trainval"], images["test"])


def is_image_folder(folder: Path) -> bool:
    """Whether `folder` has one folder per split, as `read_image_folder` expects."""
    return all(any((folder / option).is_dir() for option in options) for options in _FOLDERS.values())


def _split_folder(folder: Path, options: tuple[str, ...]) -> Path:
    for option in options:
        if (folder / option).is_dir():
            return folder / option
    have = sorted(path.name for path in folder.iterdir())[:6]
    raise UserError(f"{folder}: expected a folder {'/ or '.join(options)}/ here, found {', '.join(have) or 'nothing'}")


def _classes(split: Path) -> list[str]:
    with os.scandir(split) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(
            f"{split}: expected one folder per class, found none. ImageNet's validation archive is flat: first sort "
            f"its images into one folder per WordNet id, with the labels of the development kit (docs/datasets.md)."
        )
    return classes


def _images(folder: Path, split: Path, classes: list[str]) -> SplitListing:
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(image_names(split / name))
        if not found:
            raise UserError(
                f"{split / name}: this class folder has no images ({', '.join(EXTENSIONS)}). Add images, or delete the "
                f"folder in both splits"
            )
        prefix = f"{split.relative_to(folder).as_posix()}/{name}/"
        names += [prefix + image for image in found]
        labels += [label] * len(found)
    return SplitListing(names, labels)


def image_names(folder: Path, prefix: str = "") -> list[str]:
    """Paths of all images below `folder`, in no particular order, without hidden files. `prefix` goes before each."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                names += image_names(folder / entry.name, f"{prefix}{entry.name}/")
            elif entry.name.lower().endswith(EXTENSIONS):
                names.append(prefix + entry.name)
    return names
