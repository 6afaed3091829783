"""ImageNet-CoG: five levels of a thousand concepts each, images of ImageNet-21K.

The benchmark gives two pickles: a list of five lists of WordNet ids, and for each id the train and test files. They are
read once, by a reader that runs nothing of what they hold, and kept beside them as one JSON file per level.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

from trex.datasets.cog_pickle import read_plain_pickle
from trex.datasets.record import Counts, Dataset, Listed, Listing
from trex.errors import UserError
from trex.files import read_json, write_json

log = logging.getLogger(__name__)

Level = dict[str, dict[str, list[str]]]  #: WordNet id: {"train": files, "test": files}

TRAINVAL = (1118804, 1115788, 1095203, 1107128, 1091654)  #: images of the levels 1 … 5
_STEPS = (
    "CoG has images of ImageNet-21K, which needs an account at image-net.org (winter 2021 release); its two lists are "
    "on the benchmark's page, https://europe.naverlabs.com/cog-benchmark. Put both pickles into the folder above, and "
    "there, or in images/, one folder per WordNet id."
)


def read_cog(level: int, folder: Path) -> Listing:
    """Level 1 … 5. Labels by sorted WordNet id, files sorted within a class.

    Files are looked for below the folder itself, `images/`, or the only other folder in it.
    """
    concepts = _level(level, folder)
    classes = sorted(concepts)
    base = _image_base(folder, concepts[classes[0]]["train"][0] if classes and concepts[classes[0]]["train"] else "")

    def listed(split: str) -> Listed:
        images = [(name, label) for label, wnid in enumerate(classes) for name in sorted(concepts[wnid][split])]
        return Listed([name for name, _ in images], [label for _, label in images])

    return Listing(tuple(classes), listed("train"), listed("test"), folder=base, listed=True)


def _level(level: int, folder: Path) -> Level:
    kept = folder / f"cog_l{level}.json"
    if kept.is_file():
        try:
            return _checked(read_json(kept), kept)
        except (OSError, ValueError) as error:
            raise UserError(f"{kept}: not readable ({error}); delete it, it is made again from the pickles") from error
    levels = _from_pickles(folder)
    for number, concepts in enumerate(levels, start=1):
        try:
            write_json(folder / f"cog_l{number}.json", concepts)
        except OSError as error:  # a shared, read-only folder: the pickles are then read each time
            log.info("%s: cannot keep the lists there (%s)", folder, error.strerror)
            break
    return levels[level - 1]


def _from_pickles(folder: Path) -> list[Level]:
    """The five levels; which pickle is which shows in what it holds."""
    paths = sorted(folder.glob("*.pkl")) + sorted(folder.glob("*.pickle"))
    contents = [(path, read_plain_pickle(path)) for path in paths]
    lists = [(path, value) for path, value in contents if isinstance(value, list)]
    files = [(path, value) for path, value in contents if isinstance(value, dict)]
    if len(lists) != 1 or len(files) != 1:
        names = ", ".join(path.name for path in paths) or "none"
        raise UserError(
            f"{folder}: expected the two pickles of the CoG benchmark there, the list of levels and the files of each "
            f"concept; found {names}"
        )
    (levels_path, levels), (files_path, split) = lists[0], files[0]
    if len(levels) != 5 or not all(isinstance(level, list) for level in levels):
        raise UserError(f"{levels_path}: expected a list of five lists of WordNet ids")
    for wnid in (wnid for level in levels for wnid in level):
        if wnid not in split:
            raise UserError(f"{files_path}: has no files of {wnid}, which {levels_path.name} lists")
    return [_checked({wnid: split[wnid] for wnid in level}, files_path) for level in levels]


def _checked(value: Any, path: Path) -> Level:
    """The concepts with relative paths, or UserError."""
    concepts: Level = {}
    try:
        for wnid, splits in value.items():
            concepts[str(wnid)] = {key: [str(name).lstrip("/") for name in splits[key]] for key in ("train", "test")}
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected 'train' and 'test' files of each concept ({error!r})") from error
    return concepts


def _image_base(folder: Path, image: str) -> Path:
    others = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name != "images"]
    for base in (folder, folder / "images", *others[:20]):
        if (base / image).parent.is_dir() and (base / image).exists():
            return base
    raise UserError(f"{folder}: expected the images of ImageNet-21K there or in images/, such as {image}")


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
