"""The data sets by name. A new one is a function from its folder to a `Listing`, registered with `@dataset`.

A set that is a folder of `train/` and `val/` (or `trainval/`, `test/`) with a folder a class needs no code at all.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trex.config.schema import DataConfig
from trex.errors import UserError
from trex.images.split import Names, Part, Split

#: Modules that register data sets, imported when a name of theirs is asked for.
MODULES = {
    "digits": "trex.images.digits",
    "digits_seen": "trex.images.digits",
    "digits_unseen": "trex.images.digits",
    "in1k": "trex.images.imagefolder",
}


@dataclass(frozen=True)
class Counts:
    """Official numbers of a data set."""

    classes: int
    trainval: int
    test: int


@dataclass(frozen=True)
class Listing:
    """Both parts of a data set as a reader finds them: for each image its relative path and its label."""

    classes: tuple[str, ...]
    trainval: tuple[list[str], list[int]]
    test: tuple[list[str], list[int]]
    trainval_arrays: np.ndarray | None = None  #: (n, H, W, 3) uint8 for sets without files
    test_arrays: np.ndarray | None = None
    folder: Path | None = None  #: where the relative paths begin, if not in the data set's own folder


Reader = Callable[[Path], Listing]


@dataclass(frozen=True)
class Dataset:
    """A registered data set."""

    name: str
    read: Reader
    counts: Counts | None
    needs_files: bool = True


_REGISTERED: dict[str, Dataset] = {}


def dataset(name: str, counts: Counts | None = None, needs_files: bool = True) -> Callable[[Reader], Reader]:
    """Register the decorated function as the reader of the data set `name`.

    Args:
        name: as configs name it.
        counts: the official numbers; a folder that differs is refused unless `data.subsets` names the set.
        needs_files: False for a set that is made without a folder.
    """

    def register(read: Reader) -> Reader:
        _REGISTERED[name] = Dataset(name, read, counts, needs_files)
        return read

    return register


def names() -> list[str]:
    """Every registered name."""
    return sorted({*MODULES, *_REGISTERED})


def find(name: str, data: DataConfig) -> Dataset:
    """The data set of that name; a folder that nobody registered is read as an image folder.

    Raises:
        UserError: if there is neither.
    """
    if name not in _REGISTERED and name in MODULES:
        importlib.import_module(MODULES[name])
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name in data.folders or folder_of(name, data).is_dir():
        from trex.images.imagefolder import read_image_folder

        return Dataset(name, read_image_folder, counts=None)
    close = difflib.get_close_matches(name, names(), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UserError(
        f"no data set is called {name!r}, and there is no folder {folder_of(name, data)}.{hint} "
        f"Known: {', '.join(names())}"
    )


def folder_of(name: str, data: DataConfig) -> Path:
    """Where the data set is looked for: `data.folders`, else a folder of its name in `data.root`."""
    return Path(data.folders.get(name, str(Path(data.root) / name))).expanduser()


def load_split(name: str, part: Part, data: DataConfig) -> Split:
    """One split of the data set `name`.

    Raises:
        UserError: if it is unknown, not where it is looked for, not laid out as expected, or its counts differ from
            the official ones and `data.subsets` does not name it.
    """
    return load_splits(name, data)[part]


def load_splits(name: str, data: DataConfig) -> dict[Part, Split]:
    """Both splits of the data set `name`; raises as `load_split` does."""
    found = find(name, data)
    folder = folder_of(name, data)
    if found.needs_files and not folder.is_dir():
        raise UserError(
            f"data set {name!r} is looked for in {folder.absolute()}, and there is no such folder. Put it there, or "
            f"say where it is: data.root=… for all sets, data.folders.{name}=… for this one."
        )
    listing = found.read(folder)
    problem = _count_problem(found, listing)
    if problem and name not in data.subsets:
        raise UserError(
            f"data set {name!r} in {folder}: {problem}. A complete set gives comparable numbers; to use this one all "
            f"the same, with results marked as not comparable: data.subsets=[{name}]"
        )
    base = (listing.folder or folder) if found.needs_files else None
    parts: dict[Part, Split] = {}
    for part, (paths, labels), arrays in (
        ("trainval", listing.trainval, listing.trainval_arrays),
        ("test", listing.test, listing.test_arrays),
    ):
        key: Part = "trainval" if part == "trainval" else "test"
        parts[key] = Split(
            name, key, listing.classes, np.asarray(labels, dtype=np.int64), Names(paths), base, problem is None, arrays
        )
    return parts


def _count_problem(found: Dataset, listing: Listing) -> str | None:
    if found.counts is None:
        return None
    have = Counts(len(listing.classes), len(listing.trainval[0]), len(listing.test[0]))
    if have == found.counts:
        return None
    return (
        f"found {have.classes} classes, {have.trainval} trainval and {have.test} test images; "
        f"expected {found.counts.classes}, {found.counts.trainval} and {found.counts.test}"
    )
