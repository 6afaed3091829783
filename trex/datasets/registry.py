"""Finds datasets by name: their records, the folders that they are read from, and their splits.

A dataset is read from its folder, from a pack beside it (`trex data pack`), or from a tar or zip of an image folder.

The records are in `trex/datasets/sets/`, one file per dataset; a new file there needs no registration. A folder with
`train/` and `val/` (or `trainval/`, `test/`) and one folder per class needs no record.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trex.config.schema import DataConfig
from trex.datasets import sets, torchvision_sets
from trex.datasets.imagefolder import is_image_folder, is_in_archives, read_image_folder
from trex.datasets.places import PACK, is_pack, place_of
from trex.datasets.record import Counts, Dataset, Listing, SplitListing
from trex.errors import UserError
from trex.wording import did_you_mean

if TYPE_CHECKING:
    from trex.datasets.split import Split, SplitName

log = logging.getLogger(__name__)


@functools.cache
def known() -> Mapping[str, Dataset]:
    """The records of all modules in `trex/datasets/sets/`, sorted by name."""
    found: dict[str, Dataset] = {}
    for module in pkgutil.iter_modules(sets.__path__, f"{sets.__name__}."):
        for dataset in importlib.import_module(module.name).DATASETS:
            assert dataset.name not in found, f"{module.name}: {dataset.name} already has a record"
            found[dataset.name] = dataset
    return dict(sorted(found.items()))


def record(name: str) -> Dataset:
    """The record of the dataset `name`. A name without a record means an image folder. Reads no files."""
    if name.startswith(torchvision_sets.PREFIX):
        return torchvision_sets.record(name)
    return known().get(name) or Dataset(name, read_image_folder)


def find(name: str, data: DataConfig) -> Dataset:
    """The record of a dataset that is known or has a folder.

    Raises:
        UserError: if the dataset is not known and has no folder.
    """
    found = record(name)
    if name in known() or found.download is not None or name in data.folders or place(name, data):
        return found
    raise UserError(
        f"unknown dataset {name!r}, and the folder {folder_of(name, data)} does not exist. "
        f"Known datasets: {', '.join(known())}{did_you_mean(name, known())}"
    )


def made_without_files(name: str) -> bool:
    """Whether `name` is a dataset that needs no folder."""
    return not record(name).needs_files


def folder_of(name: str, data: DataConfig) -> Path:
    """The dataset's folder: the one that `data.folders` gives, else its folder in `data.root`. It may not exist."""
    shared = record(name).folder
    for key in (name, shared):
        if key is not None and key in data.folders:
            return Path(data.folders[key])
    return Path(data.root) / (shared or name)


def place(name: str, data: DataConfig, packs: bool = True) -> Path | None:
    """What the dataset is read from: its pack, its folder, or a tar or zip; None if there is nothing."""
    return place_of(name, folder_of(name, data), packs)


def own_datasets(data: DataConfig) -> list[str]:
    """Names of the user's own datasets, sorted.

    These are the names in `data.folders`, the image folders and packs in `data.root`, and the torchvision datasets that
    have a folder in `data.root`.

    Raises:
        UserError: if `data.root` exists but cannot be read.
    """
    root = Path(data.root)
    try:
        found = sorted(root.iterdir()) if root.is_dir() else []
        below = [path.name for path in found if is_image_folder(path)]
        below += [path.name.removesuffix(PACK) for path in found if is_pack(path) and path.name.endswith(PACK)]
        torchvision = root / torchvision_sets.FOLDER
        if torchvision.is_dir():
            below += [torchvision_sets.PREFIX + path.name for path in torchvision.iterdir() if path.is_dir()]
    except OSError as error:
        raise UserError(f"data.root: {root} cannot be read ({error.strerror})") from error
    shared = {dataset.folder for dataset in known().values()}
    return sorted({*data.folders, *below} - known().keys() - shared)


def located(name: str, data: DataConfig, packs: bool = True) -> tuple[Dataset, Path]:
    """The record of a dataset, and what it is read from: its pack, folder or archive. Lists no files.

    Raises:
        UserError: if the dataset is unknown, or its folder does not exist.
    """
    found = find(name, data)
    folder = place(name, data, packs) or folder_of(name, data)
    if found.needs_files and found.download is None and not folder.exists():
        raise UserError(
            f"dataset {name!r} is expected in {folder.absolute()}, but this folder does not exist. Put the dataset "
            f"there, or set its place: data.root=… for all datasets, data.folders.{name}=… for this one. "
            f"`trex data get {name}` downloads it, or says how to get it."
        )
    return found, folder


def load_split(name: str, split: SplitName, data: DataConfig) -> Split:
    """Load one split of the dataset `name`.

    Raises:
        UserError: if the dataset is unknown, its folder does not exist or has an unexpected layout, or its counts
            differ from the official ones and `data.subsets` does not name it.
    """
    return _logged(_read(name, data)[split])


def load_splits(name: str, data: DataConfig, packs: bool = True) -> dict[SplitName, Split]:
    """Load both splits of the dataset `name`; not from a pack unless `packs`. Raises the errors of `load_split`."""
    return {split_name: _logged(split) for split_name, split in _read(name, data, packs).items()}


def _logged(split: Split) -> Split:
    if split.left_out:
        log.info("%s %s: left out: %s", split.dataset, split.split_name, split.left_out)
    return split


def _listing(found: Dataset, folder: Path) -> Listing:
    """The dataset as it is listed in `folder`, which is a folder, a pack or an archive."""
    if not found.needs_files:
        return found.read(folder)
    if is_pack(folder):
        from trex.datasets.pack import read_pack

        log.info("%s is read from the pack %s", found.name, folder)
        return read_pack(folder)
    if found.read is read_image_folder and is_in_archives(folder):
        from trex.datasets.archives import read_archives

        return read_archives(folder)
    if folder.is_file():
        raise UserError(
            f"dataset {found.name!r}: {folder} is a file. A tar or zip is read only for image folders (train/ and "
            f"val/, with one folder per class): unpack it. Then `trex data pack {found.name}` makes a few large "
            f"files of it"
        )
    return found.read(folder)


def _read(name: str, data: DataConfig, packs: bool = True) -> dict[SplitName, Split]:
    from trex.datasets.split import Split

    found, folder = located(name, data, packs)
    listing = _listing(found, folder)
    base = (listing.folder or folder) if found.needs_files else None
    missing = listing.problem
    if listing.from_list_file and base is not None:
        listing, missing = _without_missing(listing, base, name)
    problem = missing or _count_problem(found, listing)
    if problem and name not in data.subsets:
        raise UserError(
            f"dataset {name!r} in {folder}: {problem}. Only a complete dataset gives comparable results. To use this "
            f"one anyway, with results marked as not comparable, set 'data.subsets=[{name}]'"
        )
    for split, images in (("trainval", listing.trainval), ("test", listing.test)):
        if not images.names:
            raise UserError(
                f"dataset {name!r} in {folder}: no {split} image was found{f' ({problem})' * bool(problem)}"
            )
    listed: dict[SplitName, SplitListing] = {"trainval": listing.trainval, "test": listing.test}
    splits = {split: Split.of(images, name, split, listing.classes, base, problem) for split, images in listed.items()}
    if any(split.multi_label != found.multi_label for split in splits.values()):
        raise UserError(
            f"dataset {name!r}: its record has multi_label={found.multi_label}, so its reader must return "
            f"{'a tuple of labels' if found.multi_label else 'one label'} for each image, but it does not"
        )
    return splits


def _without_missing(listing: Listing, base: Path, name: str) -> tuple[Listing, str]:
    """Remove images whose files do not exist. Reads each folder once.

    Returns:
        The listing without these images, and a description of them, empty if there are none.

    Raises:
        UserError: if a list names a path outside the dataset's folder.
    """
    files: dict[str, frozenset[str]] = {}
    absent: list[str] = []
    splits = []
    for listed in (listing.trainval, listing.test):
        kept = SplitListing([], [])
        for path, label in zip(listed.names, listed.labels, strict=True):
            parent, _, file = path.rpartition("/")
            if parent not in files:
                if path.startswith("/") or ".." in path.split("/"):
                    raise UserError(
                        f"dataset {name!r}: a list in {base} names {path!r}, which is outside the folder: refused"
                    )
                files[parent] = _files_in(base / parent)
            if file in files[parent]:
                kept.names.append(path)
                kept.labels.append(label)
            else:
                absent.append(path)
        splits.append(kept)
    if not absent:
        return listing, ""
    shown = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
    text = f"{len(absent)} listed images are missing in {base}: {shown}"
    return replace(listing, trainval=splits[0], test=splits[1]), text


def _files_in(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except (OSError, ValueError):  # a name with a NUL, which no folder has
        return frozenset()


def _count_problem(found: Dataset, listing: Listing) -> str:
    if found.counts is None:
        return ""
    have = Counts(len(listing.classes), len(listing.trainval.names), len(listing.test.names))
    if have == found.counts:
        return ""
    return (
        f"found {have.classes} classes, {have.trainval} trainval and {have.test} test images; "
        f"expected {found.counts.classes}, {found.counts.trainval} and {found.counts.test}"
        f"{f' ({listing.remark})' if listing.remark else ''}"
    )
