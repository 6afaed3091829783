"""Reads image folders: one folder per split, and in it one folder of images per class, as in ImageNet-1K.

The rules are the same for folders on a disk and folders in an archive (trex/datasets/archives.py): both are a `Tree`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trex.datasets.places import archive_at
from trex.datasets.record import Listing, SplitListing
from trex.errors import UserError
from trex.wording import counted, printable

EXTENSIONS = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_FOLDERS = {"trainval": ("train", "trainval"), "test": ("val", "test")}


class Tree:
    """Folders and files on the disk."""

    def entries(self, folder: str) -> Iterator[Any]:
        """The entries of a folder, as `os.DirEntry`."""
        with os.scandir(folder) as entries:
            yield from entries

    def identity(self, folder: str) -> object:
        """What only this folder has, also if it is reached through a link."""
        found = os.stat(folder)  # noqa: PTH116 - as in _walk, paths are texts
        return found.st_dev, found.st_ino

    def around(self, folder: str) -> frozenset[object]:
        """The identities of the folder and of all folders around it."""
        resolved = Path(folder).resolve()
        return frozenset(self.identity(str(path)) for path in (resolved, *resolved.parents))

    def is_dir(self, path: Path) -> bool:
        """Whether there is a folder `path`."""
        return path.is_dir()


DISK = Tree()


def read_image_folder(folder: Path, tree: Tree = DISK) -> Listing:
    """Reads `train/` (or `trainval/`) and `val/` (or `test/`), with one folder per class.

    A class's label is its index in the sorted list of class names.

    Raises:
        UserError: if a split or its class folders are missing, a class is empty, or the splits' classes differ.
    """
    found = {split: _split_folder(folder, options, tree) for split, options in _FOLDERS.items()}
    classes = {split: _classes(path, tree) for split, path in found.items()}
    if classes["trainval"] != classes["test"]:
        unmatched = sorted(set(classes["trainval"]) ^ set(classes["test"]))
        raise UserError(
            f"{folder}: {found['trainval'].name}/ has {len(classes['trainval'])} classes and {found['test'].name}/ has "
            f"{len(classes['test'])}, expected the same classes in both; only in one of them: "
            f"{', '.join(unmatched[:5])}{'…' if len(unmatched) > 5 else ''}"
        )
    images = {split: _images(folder, path, classes[split], tree) for split, path in found.items()}
    return Listing(tuple(classes["trainval"]), images["trainval"], images["test"])


def is_image_folder(folder: Path) -> bool:
    """Whether `folder` has one folder per split, as `read_image_folder` expects, or an archive of each."""
    return _has_splits(folder) or _has_archives(folder)


def is_in_archives(folder: Path) -> bool:
    """Whether the image folder is in a tar or zip: as a whole, or one per split."""
    return folder.is_file() or (_has_archives(folder) and not _has_splits(folder))


def _has_splits(folder: Path) -> bool:
    return all(any((folder / option).is_dir() for option in options) for options in _FOLDERS.values())


def _has_archives(folder: Path) -> bool:
    return all(any(archive_at(folder / option) for option in options) for options in _FOLDERS.values())


def split_folders() -> tuple[str, ...]:
    """The names that the folders of the splits may have."""
    return tuple(name for options in _FOLDERS.values() for name in options)


def _split_folder(folder: Path, options: tuple[str, ...], tree: Tree) -> Path:
    for option in options:
        if tree.is_dir(folder / option):
            return folder / option
    have = sorted(entry.name for entry in tree.entries(str(folder)))[:6]
    raise UserError(f"{folder}: expected a folder {'/ or '.join(options)}/ here, found {', '.join(have) or 'nothing'}")


def _classes(split: Path, tree: Tree) -> list[str]:
    around = tree.around(str(split))
    classes = sorted(
        entry.name
        for entry in tree.entries(str(split))
        if not is_foreign(entry.name) and _is_folder(entry) and tree.identity(entry.path) not in around
    )
    if not classes:
        raise UserError(
            f"{split}: expected one folder per class, found none. ImageNet's validation archive is flat: first sort "
            f"its images into one folder per WordNet id, with the labels of the development kit (docs/datasets.md)."
        )
    return classes


def _images(folder: Path, split: Path, classes: list[str], tree: Tree) -> SplitListing:
    names: list[str] = []
    labels: list[int] = []
    left_out = LeftOut(tree)
    known = set(classes)
    for entry in tree.entries(str(split)):
        if entry.name not in known:
            left_out.add_beside(entry)
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
    left_out = left_out or LeftOut()
    return _walk(str(folder), "", left_out.tree.around(str(folder)), left_out)


def _walk(folder: str, prefix: str, around: frozenset[object], left_out: LeftOut) -> list[str]:
    """The images in `folder` and below, each with `prefix`. `around` has the folder and all folders around it."""
    names = []
    for entry in left_out.tree.entries(folder):
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
        elif (identity := left_out.tree.identity(entry.path)) in around:
            left_out.links += 1
        else:
            names += _walk(entry.path, f"{prefix}{entry.name}/", around | {identity}, left_out)
    return names


@dataclass
class LeftOut:
    """What is in the folders of a split and is not used. As text: how many of each, empty if there is nothing."""

    tree: Tree = DISK
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
            if count := len(_walk(path, "", self.tree.around(path), LeftOut(self.tree))):
                self.images[name] += count

    def add_beside(self, entry: Any) -> None:
        """Count what is beside the class folders of a split."""
        is_folder = _is_folder(entry)
        if entry.is_symlink() and is_folder:
            self.links += 1
        elif is_folder:
            self.add_folder(entry.path, entry.name)
        elif entry.name.lower().endswith(EXTENSIONS):
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


def is_foreign(name: str) -> bool:
    """Whether a folder of this name is hidden, or one that file servers, archives and operating systems make."""
    return name.startswith(".") or name.lower() in _FOREIGN


def _is_folder(entry: Any) -> bool:
    try:
        return bool(entry.is_dir())
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise
