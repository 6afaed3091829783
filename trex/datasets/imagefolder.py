"""Data sets laid out as folders: a part each, in it a folder a class, in it the images. ImageNet-1K is one."""

from __future__ import annotations

import os
from pathlib import Path

from trex.datasets.registry import Counts, Listing, dataset
from trex.errors import UserError

EXTENSIONS = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_PARTS = {"trainval": ("train", "trainval"), "test": ("val", "test")}


@dataset("in1k", Counts(classes=1000, trainval=1281167, test=50000))
def read_image_folder(folder: Path) -> Listing:
    """`train/` (or `trainval/`) and `val/` (or `test/`), a folder a class; labels are the rank of the sorted names.

    Raises:
        UserError: if a part or its class folders are missing, a class is empty, or the parts' classes differ.
    """
    found = {part: _part_folder(folder, options) for part, options in _PARTS.items()}
    classes = {part: _classes(path) for part, path in found.items()}
    if classes["trainval"] != classes["test"]:
        odd = sorted(set(classes["trainval"]) ^ set(classes["test"]))
        raise UserError(
            f"{folder}: {found['trainval'].name}/ has {len(classes['trainval'])} classes, {found['test'].name}/ has "
            f"{len(classes['test'])}; only in one of them: {', '.join(odd[:5])}{'…' if len(odd) > 5 else ''}"
        )
    images = {part: _images(folder, path, classes[part]) for part, path in found.items()}
    return Listing(tuple(classes["trainval"]), images["trainval"], images["test"])


def _part_folder(folder: Path, options: tuple[str, ...]) -> Path:
    for option in options:
        if (folder / option).is_dir():
            return folder / option
    have = sorted(path.name for path in folder.iterdir())[:6]
    raise UserError(f"{folder}: expected a folder {'/ or '.join(options)}/ in it, found {', '.join(have) or 'nothing'}")


def _classes(part: Path) -> list[str]:
    with os.scandir(part) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(
            f"{part}: expected a folder a class, found none. ImageNet's validation archive is flat: sort its images "
            f"into folders named by WordNet id first, by the labels of the development kit (docs/datasets.md)."
        )
    return classes


def _images(folder: Path, part: Path, classes: list[str]) -> tuple[list[str], list[int]]:
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(image_names(part / name))
        if not found:
            raise UserError(f"{part / name}: a class folder without images ({', '.join(EXTENSIONS)})")
        prefix = f"{part.relative_to(folder).as_posix()}/{name}/"
        names += [prefix + image for image in found]
        labels += [label] * len(found)
    return names, labels


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
