"""Reads image folders: one folder per split, and in it one folder of images per class, as in ImageNet-1K."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from trex.datasets.record import Listing, SplitListing
from trex.errors import UserError
from trex.wording import counted, printable

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
    around = _around(split)
    with os.scandir(split) as entries:
        classes = sorted(
            entry.name
            for entry in entries
            if not is_foreign(entry.name) and _is_folder(entry) and _identity(entry.path) not in around
        )
    if not classes:
        raise UserError(
            f"{split}: expected one folder per class, found none. ImageNet's validation archive is flat: first sort "
            f"its images into one folder per WordNet id, with the labels of the development kit (docs/datasets.md)."
        )
    return classes


def _images(folder: Path, split: Path, classes: list[str]) -> SplitListing:
    names: list[str] = []
    labels: list[int] = []
    left_out = LeftOut()
    for name in sorted({path.name for path in split.iterdir()}.difference(classes)):
        left_out.add_beside(split / name)
    for label, name in enumerate(classes):
        found = sorted(image_names(split / name, left_out))
        if not found:
            raise UserError(
                f"{split / name}: this class folder has no images ({', '.join(EXTENSIONS)}). Add images, or delete the "
                f"folder in both splits"
            )
        prefix = f"{split.relative_to(folder).as_posix()}/{name}/"
        names += [prefix + image for image in found]
        labels += [label] * len(found)
    return SplitListing(names, labels, left_out=str(left_out))


def image_names(folder: Path, left_out: LeftOut | None = None) -> list[str]:
    """Paths of all images below `folder`, relative to it, in no particular order. `left_out` counts all other files."""
    return _walk(str(folder), "", _around(folder), LeftOut() if left_out is None else left_out)


def _walk(folder: str, prefix: str, around: frozenset[_Identity], left_out: LeftOut) -> list[str]:
    """The images in `folder` and below, each with `prefix`. `around` has the folder and all folders around it."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            is_image = entry.name.lower().endswith(EXTENSIONS)
            if not _is_folder(entry):
                if not is_image:
                    left_out.add_file(entry.name)
                elif not (entry.is_symlink() or entry.is_file()):
                    left_out.images["pipes or devices"] += 1
                elif entry.name.startswith("."):
                    left_out.images["hidden files"] += 1
                else:
                    names.append(prefix + entry.name)
            elif is_foreign(entry.name):
                left_out.add_folder(entry.path, entry.name)
            elif (identity := _identity(entry.path)) in around:
                left_out.links += 1
            else:
                names += _walk(entry.path, f"{prefix}{entry.name}/", around | {identity}, left_out)
    return names


@dataclass
class LeftOut:
    """What is in the folders of a split and is not used. As text: how many of each, empty if there is nothing."""

    images: Counter[str] = field(default_factory=Counter)  #: images, by where they are
    endings: Counter[str] = field(default_factory=Counter)  #: files that are no images, by the ending of their names
    links: int = 0  #: links to a folder that they are in

    def add_file(self, name: str) -> None:
        """Count a file that is no image. Hidden ones are not mentioned."""
        if not name.startswith("."):
            self.endings[os.path.splitext(name)[1].lower() or "none"] += 1  # noqa: PTH122 - called for each file

    def add_folder(self, path: str, name: str) -> None:
        """Count the images in a foreign folder. Hidden ones are not read: they can be copies of everything."""
        if name.startswith("."):
            return
        with contextlib.suppress(OSError):  # lost+found belongs to root
            if count := len(_walk(path, "", _around(Path(path)), LeftOut())):
                self.images[name] += count

    def add_beside(self, path: Path) -> None:
        """Count what is beside the class folders of a split."""
        if path.is_symlink() and path.is_dir():
            self.links += 1
        elif path.is_dir():
            self.add_folder(str(path), path.name)
        elif path.name.lower().endswith(EXTENSIONS):
            self.images["no class folder"] += 1

    def __str__(self) -> str:
        parts = [f"{counted(count, 'image')} in {where}" for where, count in sorted(self.images.items())]
        if self.endings:
            ordered = sorted(self.endings.items(), key=lambda item: (-item[1], item[0]))
            common = ", ".join(f"{ending} {count}" for ending, count in ordered[:3])
            more = ", …" if len(self.endings) > 3 else ""
            parts.append(f"{counted(self.endings.total(), 'file')} with other endings than images ({common}{more})")
        if self.links:
            parts.append(f"{counted(self.links, 'link')} to a folder around it")
        return printable(", ".join(parts))


#: Folders that file servers, archives and operating systems put everywhere.
_FOREIGN = {
    "@eadir", "__macosx", "lost+found", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin",
    "system volume information",
}  # fmt: skip

_Identity = tuple[int, int]  #: device and inode of a folder


def is_foreign(name: str) -> bool:
    """Whether a folder of this name is hidden, or one that file servers, archives and operating systems make."""
    return name.startswith(".") or name.lower() in _FOREIGN


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def _identity(path: str) -> _Identity:
    found = os.stat(path)  # noqa: PTH116 - as in _walk, paths are texts
    return found.st_dev, found.st_ino


def _around(folder: Path) -> frozenset[_Identity]:
    """The folder and all folders around it."""
    resolved = folder.resolve()
    return frozenset(_identity(str(path)) for path in (resolved, *resolved.parents))
