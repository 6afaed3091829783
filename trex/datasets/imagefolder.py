"""Datasets laid out as folders: one per split, in it one per class, in it the images. ImageNet-1K is one."""

from __future__ import annotations

import os
from pathlib import Path

from trex.datasets.record import Listed, Listing
from trex.errors import UserError

EXTENSIONS = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_FOLDERS = {"trainval": ("train", "trainval"), "test": ("val", "test")}


def read_image_folder(folder: Path) -> Listing:
    """`train/` (or `trainval/`) and `val/` (or `test/`), one folder per class; labels are the rank of the sorted names.

    Raises:
        UserError: if a split or its class folders are missing, a class is empty, or the splits' classes differ.
    """
    found = {split: _split_folder(folder, options) for split, options in _FOLDERS.items()}
    classes = {split: _classes(path) for split, path in found.items()}
    if classes["trainval"] != classes["test"]:
        odd = sorted(set(classes["trainval"]) ^ set(classes["test"]))
        raise UserError(
            f"{folder}: {found['trainval'].name}/ has {len(classes['trainval'])} classes, {found['test'].name}/ has "
            f"{len(classes['test'])}; only in one of them: {', '.join(odd[:5])}{'…' if len(odd) > 5 else ''}"
        )
    images = {split: _images(folder, path, classes[split]) for split, path in found.items()}
    return Listing(tuple(classes["trainval"]), images["trainval"], images["test"])


def is_image_folder(folder: Path) -> bool:
    """Whether a folder has a folder per split, as `read_image_folder` expects."""
    return all(any((folder / option).is_dir() for option in options) for options in _FOLDERS.values())


def _split_folder(folder: Path, options: tuple[str, ...]) -> Path:
    for option in options:
        if (folder / option).is_dir():
            return folder / option
    have = sorted(path.name for path in folder.iterdir())[:6]
    raise UserError(f"{folder}: expected a folder {'/ or '.join(options)}/ in it, found {', '.join(have) or 'nothing'}")


def _classes(split: Path) -> list[str]:
    with os.scandir(split) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(
            f"{split}: expected one folder per class, found none. ImageNet's validation archive is flat: sort its "
            f"images into folders named by WordNet id first, by the labels of the development kit (docs/datasets.md)."
        )
    return classes


def _images(folder: Path, split: Path, classes: list[str]) -> Listed:
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(image_names(split / name))
        if not found:
            raise UserError(f"{split / name}: a class folder without images ({', '.join(EXTENSIONS)})")
        prefix = f"{split.relative_to(folder).as_posix()}/{name}/"
        names += [prefix + image for image in found]
        labels += [label] * len(found)
    return Listed(names, labels)


def image_names(folder: Path, prefix: str = "") -> list[str]:
    """Paths of the images below a folder, in no order; hidden files and other kinds are left out."""
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
