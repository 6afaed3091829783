"""`trex data`: lists the datasets, checks whether they are complete, and downloads them."""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import TYPE_CHECKING

from jobs.backend import load_cluster
from jobs.environment import available_cpus
from jobs.plan.cluster import Cluster
from jobs.plan.defaults import with_data
from trex.config import Config, load
from trex.config.schema import DATASET, NAME, DataConfig
from trex.errors import ExitCode, TrexError, UserError
from trex.wording import one_line

if TYPE_CHECKING:
    from trex.datasets.inspect import FileCheck
    from trex.datasets.split import Split, SplitName

_SETTINGS = "where the datasets are, e.g. data.root=/datasets or data.folders.pets=/home/me/pets"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `trex data list`, `check` and `get`."""
    about = "List the datasets, check whether they are complete, and download them."
    parser = commands.add_parser("data", help=about[0].lower() + about[1:-1], description=about)
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="verb")
    text = (
        "List each known dataset and each folder of your own that looks like one: its folder, the number of images "
        "found there, and whether it is the official number."
    )
    listing = verbs.add_parser("list", help="list the datasets, their folders and what is missing", description=text)
    listing.set_defaults(handler=lambda args: _list(_config(args)))
    text = (
        "Compare a dataset's counts with the official ones, decode every image in parallel, and report the images that "
        "cannot be decoded and those that are in both trainval and test. Exits with 2 if something is wrong. A dataset "
        "that data.subsets names may have other counts."
    )
    check = verbs.add_parser("check", help="check counts, find unreadable images and duplicates", description=text)
    check.add_argument("name", metavar="NAME", help="a dataset")
    check.add_argument("--processes", type=int, metavar="N", help="processes for decoding (default: one per CPU)")
    check.set_defaults(handler=lambda args: _check(args.name, _config(args), args.processes))
    text = (
        "Download a dataset's official archives, compare them with the official checksums where these exist, and "
        "unpack them. Continues an interrupted download. If a dataset requires a login, prints what to do."
    )
    get = verbs.add_parser("get", help="download and unpack a dataset, or print how to get it", description=text)
    get.add_argument("name", metavar="NAME", help="a dataset")
    get.set_defaults(handler=lambda args: _get(args.name, _config(args)))
    for verb in (listing, check, get):
        verb.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=_SETTINGS)
        verb.add_argument("--cluster", metavar="NAME", help="use the data_root of this cluster file")


def _config(args: argparse.Namespace) -> DataConfig:
    config = load(None, Config, args.overrides)
    return (load_cluster(args.cluster) if args.cluster else with_data(Cluster())).adapt(config).data


def _list(data: DataConfig) -> int:
    from trex.datasets.registry import known, own_datasets

    names = [*known(), *own_datasets(data)]
    width = max(len(one_line(name)) for name in names)
    for name in names:
        state, text = _state(name, data)
        sys.stdout.write(f"{state:8} {one_line(name):{width}} {one_line(text)}\n")
        sys.stdout.flush()
    return ExitCode.DONE


def _state(name: str, data: DataConfig) -> tuple[str, str]:
    """Return what `trex data list` prints for a dataset: its state, and its folder and number of images."""
    from trex.datasets.registry import folder_of, load_splits, record

    counts, folder = record(name).counts, folder_of(name, data)
    official = f"{counts.trainval} + {counts.test} images of {counts.classes} classes" if counts else ""
    if not record(name).needs_files:
        return "ok", f"needs no files: {official}"
    if re.fullmatch(DATASET, name) is None:
        return "WRONG", f"{folder}: cannot be used as a dataset name in a config: expected the form {NAME}"
    if not folder.is_dir():
        return "missing", f"{folder}: this folder does not exist{f'; expected {official}' if official else ''}"
    try:
        splits = load_splits(name, data)
    except TrexError as error:
        return "WRONG", str(error)
    except OSError as error:  # no rights, links in a circle: the other datasets are listed all the same
        return "WRONG", f"{error.filename or folder}: {error.strerror}"
    found = f"{len(splits['trainval'])} + {len(splits['test'])} images of {len(splits['test'].classes)} classes"
    found += "".join(f"; left out of {split}: {images.left_out}" for split, images in splits.items() if images.left_out)
    if problem := splits["test"].problem:
        return "subset", f"{folder}: {found}; not comparable: {problem}"
    return "ok", f"{folder}: {found}"


def _check(name: str, data: DataConfig, processes: int | None) -> int:
    from dataclasses import replace

    from trex.datasets.registry import load_splits

    if processes is not None and processes < 1:
        raise UserError(f"--processes is {processes}: expected at least 1")
    accepted = name in data.subsets
    splits = load_splits(name, replace(data, subsets=(*data.subsets, name)))
    if splits["test"].folder is None:
        sys.stdout.write(f"{name}: {len(splits['trainval'])} + {len(splits['test'])} images, needs no files\n")
        return ExitCode.DONE
    faults = _check_images(splits, processes or available_cpus())
    problem = splits["test"].problem
    state = "subset (data.subsets names it), results are not comparable" if accepted else "WRONG"
    counts = f"counts: {state}: {problem}" if problem else "counts: ok"
    sys.stdout.write(f"{counts}\nunreadable images: {faults}\n")
    for split, images in splits.items():
        if images.left_out:
            sys.stdout.write(f"left out of {split}: {images.left_out}\n")
    return ExitCode.USER_ERROR if faults or (problem and not accepted) else ExitCode.DONE


def _check_images(splits: dict[SplitName, Split], processes: int) -> int:
    """Decode all images, print progress and problems, and return how many images cannot be decoded."""
    from trex.datasets.inspect import check_files, duplicates

    total = sum(len(split) for split in splits.values())
    seen: dict[SplitName, dict[bytes, int]] = {"trainval": {}, "test": {}}
    faults = 0
    began = shown = time.monotonic()
    for done, check in enumerate(check_files(splits, processes), start=1):
        if check.problem:
            faults += 1
            sys.stdout.write(f"unreadable: {one_line(_path(splits, check))}: {one_line(check.problem)}\n")
        else:
            seen[check.split_name].setdefault(check.digest, check.index)
        if time.monotonic() - shown > 2:
            shown = time.monotonic()
            rate = done / (shown - began)
            sys.stderr.write(f"{done}/{total} images, {rate:.0f} images/s, {(total - done) / rate:.0f} s left\n")
    for trainval, test in duplicates(seen):
        first, second = one_line(splits["trainval"].name(trainval)), one_line(splits["test"].name(test))
        sys.stdout.write(f"in both splits: {first} (trainval), {second} (test)\n")
    return faults


def _path(splits: dict[SplitName, Split], check: FileCheck) -> str:
    split = splits[check.split_name]
    if split.images is not None:
        return f"{split.dataset} {split.name(check.index)}"
    return f"{split.folder}/{split.name(check.index)}"


def _get(name: str, data: DataConfig) -> int:
    from trex.datasets.download import get
    from trex.datasets.registry import find, folder_of, load_splits

    found = find(name, data)
    folder = folder_of(name, data)
    if not found.needs_files:
        sys.stdout.write(f"{name} needs no files\n")
        return ExitCode.DONE
    if found.download is not None:
        found.download(folder)
    elif found.archives:
        get(found.archives, folder, _say)
    else:
        steps = found.steps or "It is not a known dataset: put your own images into that folder (docs/datasets.md)."
        sys.stdout.write(f"{name} cannot be downloaded automatically. Its folder: {folder.absolute()}\n{steps}\n")
        return ExitCode.USER_ERROR
    splits = load_splits(name, data)
    _say(f"{name}: {len(splits['trainval'])} + {len(splits['test'])} images in {folder.absolute()}")
    return ExitCode.DONE


def _say(text: str) -> None:
    sys.stderr.write(f"trex: {text}\n")
    sys.stderr.flush()
