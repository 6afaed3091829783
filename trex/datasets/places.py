"""Where a dataset may be instead of in its folder: a pack beside it, or a tar or zip of it.

This module imports nothing heavy, because submitting jobs looks for the datasets.
"""

from __future__ import annotations

from pathlib import Path

PACK = ".pack"  #: ending of the name of a pack, a folder
INDEX = "index.trex"  #: the file in a pack that lists its images
ARCHIVES = (".tar", ".zip")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")  #: refused, with a sentence that says what to do


def pack_of(name: str, folder: Path) -> Path:
    """The pack of the dataset `name` beside its folder. It may not exist."""
    return folder.absolute().parent / f"{name}{PACK}"


def is_pack(folder: Path) -> bool:
    """Whether `folder` is a pack."""
    return (folder / INDEX).is_file()


def archive_at(folder: Path) -> Path | None:
    """The tar or zip that takes the place of `folder`, such as `<folder>.tar`. None if there is none."""
    options = (folder.with_name(folder.name + ending) for ending in (*ARCHIVES, *COMPRESSED) if folder.name)
    return next((option for option in options if option.is_file()), None)


def place_of(name: str, folder: Path, packs: bool = True) -> Path | None:
    """What the dataset is read from, in this order: its pack, its folder, an archive. None if there is nothing.

    Args:
        name: the dataset.
        folder: its folder, or its archive. It may not exist.
        packs: whether it may be read from a pack.
    """
    if packs and is_pack(pack_of(name, folder)):
        return pack_of(name, folder)
    return folder if folder.exists() else archive_at(folder)
