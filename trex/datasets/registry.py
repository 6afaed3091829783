"""The datasets by name. A new one is a function from its folder to a `Listing`, registered with `@dataset`.

A set that is a folder of `train/` and `val/` (or `trainval/`, `test/`) with a folder a class needs no code at all.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trex.config.schema import DataConfig
from trex.datasets.split import Names, Split, SplitName
from trex.errors import UserError
from trex.suggest import did_you_mean

#: Modules that register datasets, imported when a name of theirs is asked for.
MODULES = {
    **dict.fromkeys(("digits", "digits_seen", "digits_unseen"), "trex.datasets.digits"),
    "in1k": "trex.datasets.imagefolder",
    **dict.fromkeys(("cog_l1", "cog_l2", "cog_l3", "cog_l4", "cog_l5"), "trex.datasets.cog"),
    **dict.fromkeys(("aircraft", "dtd", "pets", "food101", "sun397"), "trex.datasets.lists"),
    **dict.fromkeys(("cars196", "flowers"), "trex.datasets.mats"),
    "eurosat": "trex.datasets.eurosat",
    **dict.fromkeys(("inat2018", "inat2019"), "trex.datasets.inat"),
}


@dataclass(frozen=True)
class Counts:
    """Official numbers of a dataset."""

    classes: int
    trainval: int
    test: int


@dataclass(frozen=True)
class Listing:
    """Both parts of a dataset as a reader finds them: for each image its relative path and its label."""

    classes: tuple[str, ...]
    trainval: tuple[list[str], list[int]]
    test: tuple[list[str], list[int]]
    trainval_arrays: np.ndarray | None = None  #: (n, H, W, 3) uint8 for sets without files
    test_arrays: np.ndarray | None = None
    folder: Path | None = None  #: where the relative paths begin, if not in the dataset's own folder
    listed: bool = False  #: whether the paths are from a list, and not from looking at the files
    remark: str = ""  #: what is known about a wrong count


Reader = Callable[[Path], Listing]


@dataclass(frozen=True)
class Dataset:
    """A registered dataset."""

    name: str
    read: Reader
    counts: Counts | None
    needs_files: bool = True
    folder: str | None = None  #: name of the folder it is looked for in, where that is not its own name


_REGISTERED: dict[str, Dataset] = {}


def dataset(
    name: str, counts: Counts | None = None, needs_files: bool = True, folder: str | None = None
) -> Callable[[Reader], Reader]:
    """Register the decorated function as the reader of the dataset `name`.

    Args:
        name: as configs name it.
        counts: the official numbers; a folder that differs is refused unless `data.subsets` names the set.
        needs_files: False for a set that is made without a folder.
        folder: name of the folder that it shares with other sets.
    """

    def register(read: Reader) -> Reader:
        _REGISTERED[name] = Dataset(name, read, counts, needs_files, folder)
        return read

    return register


def names() -> list[str]:
    """Every registered name."""
    return sorted({*MODULES, *_REGISTERED})


def find(name: str, data: DataConfig) -> Dataset:
    """The dataset of that name; a folder that nobody registered is read as an image folder.

    Raises:
        UserError: if there is neither.
    """
    if (known := _registered(name)) is not None:
        return known
    if name in data.folders or folder_of(name, data).is_dir():
        from trex.datasets.imagefolder import read_image_folder

        return Dataset(name, read_image_folder, counts=None)
    raise UserError(
        f"no dataset is called {name!r}, and there is no folder {folder_of(name, data)}. "
        f"Known: {', '.join(names())}{did_you_mean(name, names())}"
    )


def made_without_files(name: str) -> bool:
    """Whether that is the name of a registered dataset that needs no folder."""
    known = _registered(name)
    return known is not None and not known.needs_files


def _registered(name: str) -> Dataset | None:
    if name not in _REGISTERED and name in MODULES:
        importlib.import_module(MODULES[name])
    return _REGISTERED.get(name)


def folder_of(name: str, data: DataConfig) -> Path:
    """Where the dataset is looked for: `data.folders`, else a folder of its name in `data.root`."""
    known = _registered(name)
    shared = known.folder if known is not None else None
    for key in (name, shared):
        if key is not None and key in data.folders:
            return Path(data.folders[key]).expanduser()
    return Path(data.root).expanduser() / (shared or name)


def load_split(name: str, part: SplitName, data: DataConfig) -> Split:
    """One split of the dataset `name`.

    Raises:
        UserError: if it is unknown, not where it is looked for, not laid out as expected, or its counts differ from
            the official ones and `data.subsets` does not name it.
    """
    return load_splits(name, data)[part]


def load_splits(name: str, data: DataConfig) -> dict[SplitName, Split]:
    """Both splits of the dataset `name`; raises as `load_split` does."""
    found = find(name, data)
    folder = folder_of(name, data)
    if found.needs_files and not folder.is_dir():
        raise UserError(
            f"dataset {name!r} is looked for in {folder.absolute()}, and there is no such folder. Put it there, or "
            f"say where it is: data.root=… for all sets, data.folders.{name}=… for this one."
        )
    listing = found.read(folder)
    base = (listing.folder or folder) if found.needs_files else None
    missing = ""
    if listing.listed and base is not None:
        listing, missing = _without_missing(listing, base, name)
    problem = missing or _count_problem(found, listing)
    if problem and name not in data.subsets:
        raise UserError(
            f"dataset {name!r} in {folder}: {problem}. A complete set gives comparable numbers; to use "
            f"this one all the same, with results marked as not comparable: 'data.subsets=[{name}]'"
        )
    parts: dict[SplitName, Split] = {}
    for part, (paths, labels), arrays in (
        ("trainval", listing.trainval, listing.trainval_arrays),
        ("test", listing.test, listing.test_arrays),
    ):
        key: SplitName = "trainval" if part == "trainval" else "test"
        parts[key] = Split(
            name, key, listing.classes, np.asarray(labels, dtype=np.int64), Names(paths), base, problem, arrays
        )
    return parts


def _without_missing(listing: Listing, base: Path, name: str) -> tuple[Listing, str]:
    """The listing without images that are not there, and words about those; each folder is read once.

    Raises:
        UserError: if a list names a path outside the dataset's folder.
    """
    there: dict[str, frozenset[str]] = {}
    absent: list[str] = []
    parts = []
    for paths, labels in (listing.trainval, listing.test):
        kept: tuple[list[str], list[int]] = ([], [])
        for path, label in zip(paths, labels, strict=True):
            parent, _, file = path.rpartition("/")
            if parent not in there:
                if path.startswith("/") or ".." in path.split("/"):
                    raise UserError(
                        f"dataset {name!r}: a list in {base} names {path!r}, outside of the folder: refused"
                    )
                there[parent] = _files_in(base / parent)
            if file in there[parent]:
                kept[0].append(path)
                kept[1].append(label)
            else:
                absent.append(path)
        parts.append(kept)
    if not absent:
        return listing, ""
    shown = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
    words = f"{len(absent)} listed images are not in {base}: {shown}"
    return replace(listing, trainval=parts[0], test=parts[1]), words


def _files_in(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except OSError:
        return frozenset()


def _count_problem(found: Dataset, listing: Listing) -> str:
    if found.counts is None:
        return ""
    have = Counts(len(listing.classes), len(listing.trainval[0]), len(listing.test[0]))
    if have == found.counts:
        return ""
    return (
        f"found {have.classes} classes, {have.trainval} trainval and {have.test} test images; "
        f"expected {found.counts.classes}, {found.counts.trainval} and {found.counts.test}"
        f"{f' ({listing.remark})' if listing.remark else ''}"
    )
