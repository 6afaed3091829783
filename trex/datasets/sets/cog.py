"""ImageNet-CoG: five levels of 1000 concepts each, with images of ImageNet-21K.

The benchmark publishes two pickles: a list of five lists of WordNet ids, and the train and test files of each id.
`cog_pickle.py` reads them once without running any code in them, and one JSON file per level is saved next to them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trex.datasets.cog_pickle import read_plain_pickle
from trex.datasets.layout import find_image_base
from trex.datasets.record import Counts, Dataset, Listing, SplitListing
from trex.errors import UserError
from trex.files import read_json, sha256, write_json

log = logging.getLogger(__name__)

Level = dict[str, dict[str, list[str]]]  #: WordNet id: {"train": files, "test": files}

TRAINVAL = (1118804, 1115788, 1095203, 1107128, 1091654)  #: images of the levels 1 … 5
_STEPS = (
    "CoG uses images of ImageNet-21K (winter 2021 release), which needs an account at image-net.org. Its two pickles "
    "are on the benchmark's page, https://europe.naverlabs.com/cog-benchmark. Put both pickles into the folder above, "
    "and the images into one folder per WordNet id, in the folder above or in images/ in it."
)


def read_cog(level: int, folder: Path) -> Listing:
    """Reads level 1 … 5. Labels follow the sorted WordNet ids; files are sorted within a class.

    The images may be in `folder` itself, in `images/`, or in another folder in it.
    """
    concepts = _level(level, folder)
    classes = sorted(concepts)
    base = _image_base(folder, [name for files in concepts.values() for name in (*files["train"], *files["test"])])

    def listed(split: str) -> SplitListing:
        images = [(name, label) for label, wnid in enumerate(classes) for name in sorted(concepts[wnid][split])]
        return SplitListing([name for name, _ in images], [label for _, label in images])

    return Listing(tuple(classes), listed("train"), listed("test"), folder=base, from_list_file=True)


def _level(level: int, folder: Path) -> Level:
    """The files of a level: those of `cog_l{level}.json` if it was made from the pickles in the folder, or if there are
    no pickles any more; else those of the pickles, which are then saved to the JSON files of all levels."""
    kept = folder / f"cog_l{level}.json"
    pickles = {path.name: sha256(path) for path in _pickles(folder)}
    if kept.is_file() and (saved := _saved(kept, pickles)) is not None:
        return saved
    levels = _from_pickles(folder)
    for number, concepts in enumerate(levels, start=1):
        try:
            write_json(folder / f"cog_l{number}.json", {"pickles": pickles, "concepts": concepts})
        except OSError as error:  # a shared, read-only folder: the pickles are read every time
            log.info("%s: cannot save the lists here, so the pickles are read every time (%s)", folder, error.strerror)
            break
    return levels[level - 1]


def _saved(kept: Path, pickles: dict[str, str]) -> Level | None:
    """The level that the file `kept` holds; None if it was made from other pickles than these, given by SHA-256."""
    try:
        value = read_json(kept)
    except (OSError, ValueError) as error:
        raise UserError(f"{kept}: cannot be read ({error}). Delete it; it is made again from the pickles") from error
    if not (isinstance(value, dict) and isinstance(value.get("pickles"), dict) and "concepts" in value):
        if pickles:
            return None
        raise UserError(f"{kept}: expected 'pickles' and 'concepts'. Delete it; it is made again from the pickles")
    return None if pickles and value["pickles"] != pickles else _checked(value["concepts"], kept)


def _pickles(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pkl")) + sorted(folder.glob("*.pickle"))


def _from_pickles(folder: Path) -> list[Level]:
    """Reads the five levels. The pickle that holds a list has the levels, the one that holds a dict has the files."""
    paths = _pickles(folder)
    contents = [(path, read_plain_pickle(path)) for path in paths]
    lists = [(path, value) for path, value in contents if isinstance(value, list)]
    files = [(path, value) for path, value in contents if isinstance(value, dict)]
    if len(lists) != 1 or len(files) != 1:
        names = ", ".join(path.name for path in paths) or "none"
        raise UserError(
            f"{folder}: expected the two pickles of the CoG benchmark, the list of levels and the files of each "
            f"concept; found {names}"
        )
    (levels_path, levels), (files_path, split) = lists[0], files[0]
    if len(levels) != 5 or not all(
        isinstance(level, list) and all(isinstance(wnid, str) for wnid in level) for level in levels
    ):
        raise UserError(f"{levels_path}: expected a list of five lists of WordNet ids")
    for wnid in (wnid for level in levels for wnid in level):
        if wnid not in split:
            raise UserError(f"{files_path}: has no files for {wnid}, which {levels_path.name} lists")
    return [_checked({wnid: split[wnid] for wnid in level}, files_path) for level in levels]


def _checked(value: Any, path: Path) -> Level:
    """The files of each concept, as relative paths. Raises UserError if `value` has another layout."""
    concepts: Level = {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected 'train' and 'test' files for each concept, found a {type(value).__name__}")
    for wnid, splits in value.items():
        files = {key: splits.get(key) if isinstance(splits, dict) else None for key in ("train", "test")}
        for key, names in files.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise UserError(f"{path}: concept {wnid!r}: expected a list of file names as {key!r}")
        concepts[str(wnid)] = {key: [name.lstrip("/") for name in names or ()] for key, names in files.items()}
    return concepts


def _image_base(folder: Path, images: Sequence[str]) -> Path:
    others = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name != "images"]
    base = find_image_base(images, (folder, folder / "images", *others[:20]))
    if base is None:
        example = f", such as {images[0]}" if images else ""
        raise UserError(f"{folder}: expected the images of ImageNet-21K here or in images/{example}")
    return base


DATASETS = tuple(
    Dataset(
        f"cog_l{level}",
        partial(read_cog, level),
        Counts(classes=1000, trainval=trainval, test=50000),
        steps=_STEPS,
        folder="cog",
        normalized=True,
        published_fit="SGD",
    )
    for level, trainval in enumerate(TRAINVAL, start=1)
)
