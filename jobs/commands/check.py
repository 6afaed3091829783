"""`trex check CONFIG`: finds problems before a job waits in a queue for a day and then fails."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.backend import Finding, backend
from jobs.launch import choose_cluster
from jobs.plan.cluster import Cluster
from jobs.plan.memory import probe_cost, require_memory
from jobs.plan.requirements import require_source
from jobs.plan.resources import Needs, cpu_warning, require_memory_for
from jobs.plan.runs import open_config
from jobs.plan.stages import require_kinds, require_one_class
from trex.config import Config, load
from trex.config.compare import differences
from trex.config.loader import to_dict
from trex.config.schema import WEIGHTS_OF_RUN
from trex.errors import ExitCode, UserError
from trex.model.widths import encoder_size
from trex.probing.kind import kinds_of, left_out
from trex.records.manifest import checkpoint_folders, newest_manifest
from trex.records.run_dir import RunDir
from trex.storage import Space, in_bytes
from trex.training.requirements import require_batch, require_encoder
from trex.training.space import missing_checkpoints, planned_checkpoint_bytes
from trex.wording import counted

if TYPE_CHECKING:
    from trex.datasets.split import Split


@dataclass(frozen=True)
class _Images:
    """What the checks of the disk space need to know about a dataset."""

    count: int  #: images of all splits
    classes: int
    training: Split
    packed: int  #: bytes of its pack; 0 if it is no pack


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `trex check`."""
    parser = subparsers.add_parser(
        "check",
        help="find problems before you submit: config, data, cluster limits, disk space, permissions",
        description="Find problems before you submit: in the config, the data folders and their counts, whether the "
        "cluster would accept the job of each stage, disk space and write permission. Changes nothing; exits with 2 if "
        "there is something to fix.",
    )
    parser.add_argument("target", metavar="CONFIG", help="a config file, or a run folder")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings on top of the config")
    parser.add_argument("--cluster", metavar="NAME", help="a file of configs/clusters/ by name or path")
    parser.set_defaults(handler=_check)


def _check(args: argparse.Namespace) -> int:
    run, config = open_config(args.target, args.overrides)
    cluster = choose_cluster(args.cluster)
    failed = 0
    for finding in findings(run, cluster.adapt(config), cluster):
        failed += not finding.ok
        sys.stdout.write(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.text}\n")
        sys.stdout.flush()
    if failed:
        sys.stdout.write(f"{counted(failed, 'problem')} to fix before this can run\n")
    return ExitCode.USER_ERROR if failed else ExitCode.DONE


def findings(run: RunDir, config: Config, cluster: Cluster) -> Iterator[Finding]:
    """Run all checks, one after the other. Changes nothing."""
    what = "raw pixels" if config.extract.weights == "pixels" else f"{config.model.encoder} on {config.data.dataset}"
    yield Finding(True, f"config: {config.name}, {what}, all values valid")
    yield Finding.of(lambda: _same_run(run, config))
    yield Finding.of(lambda: _encoder(config))
    yield from _files(run, config)
    trains = config.extract.weights == "trained"
    images: dict[str, _Images] = {}
    for name in dict.fromkeys((*([config.data.dataset] if trains else []), *config.extract.datasets)):
        yield Finding.of(lambda name=name: _data(name, config, images))  # type: ignore[misc]
    if trains:
        yield Finding.of(lambda: _batch(config, cluster, images.get(config.data.dataset)))
    yield from _labels(config)
    if cluster.stage is not None:
        yield Finding(True, _staging(cluster.stage, images))
    yield from _processes(config, cluster, images)
    yield Finding.of(lambda: _memory(config, cluster))
    yield from _time(config, cluster)
    yield Finding.of(lambda: _write_rights(run))
    yield Finding.of(lambda: _space(run, config, images))
    yield from backend(cluster.kind).check(run, config, cluster)


def _same_run(run: RunDir, config: Config) -> str:
    if not run.config.exists():
        return f"run: {run.root} is new"
    changes = differences(to_dict(load(run.config, Config)), config)
    if changes:
        listed = "; ".join(str(change) for change in changes)
        raise UserError(
            f"run: {run.root} holds a run with another config ({listed}): give this run another name: name=…"
        )
    return f"run: {run.root} exists and would be continued"


def _encoder(config: Config) -> str:
    from trex.features.origin import pixels_dim
    from trex.model.preprocessing import preprocessing

    if config.extract.weights == "pixels":
        size = f"{pixels_dim(config)} numbers per image"
        return f"encoder: none, the features are the raw pixels, {size}; extract.preprocess is {preprocessing(config)}"
    if config.extract.weights == "trained":
        require_encoder(config)
    if config.extract.weights in WEIGHTS_OF_RUN:  # the check of a weights file says the rest
        require_source(config)
    found = encoder_size(config.model.encoder)
    return (
        f"encoder: {config.model.encoder}, {found.parameters / 1e6:.1f} million parameters, {found.features} features; "
        f"extract.preprocess is {preprocessing(config)}"
    )


def _files(run: RunDir, config: Config) -> Iterator[Finding]:
    """Read the weights files of the config and compare them with its model."""
    if config.extract.weights not in WEIGHTS_OF_RUN:
        yield Finding.of(lambda: _weights(config))
    if config.train.start is not None and not checkpoint_folders(run.checkpoints):  # with a checkpoint it is not read
        yield Finding.of(lambda: _start(config))


def _weights(config: Config) -> str:
    from trex.features.origin import describe_file

    path, key_map = config.extract.weights, config.extract.key_map
    chosen = require_source(config)
    mapped = f"; names mapped by {describe_file(key_map)}" if key_map else ""
    choice = f" ({chosen})" if chosen else ""
    return f"weights: {path} contains all keys of a {config.model.encoder}{choice}{mapped}"


def _start(config: Config) -> str:
    from trex.datasets.registry import load_split
    from trex.training.start import start_of

    start = start_of(config, load_split(config.data.dataset, "trainval", config.data))
    details = f" ({start.choice})" if start.choice else ""
    details += f"; names mapped by {start.key_map['key_map']}" if start.key_map else ""
    return (
        f"start: {start.file}, {start.how}: all keys match{details}; training starts at epoch "
        f"{start.position.epoch + 1}"
    )


def _batch(config: Config, cluster: Cluster, found: _Images | None) -> str:
    batch, world = config.train.batch_size, cluster.train.nodes * cluster.train.tasks
    several = found is not None and found.training.multi_label  # `_labels` reports this
    try:
        require_batch(config, world, None if found is None or several else found.training)
    except UserError as error:
        raise UserError(f"batch: {error}") from error
    per_process = f", {batch // world} on each of {world} processes" if world > 1 else ""
    parts = f", in {config.train.accumulate} parts" if config.train.accumulate > 1 else ""
    return f"batch: {batch} images per step{per_process}{parts}"


def _data(name: str, config: Config, images: dict[str, _Images]) -> str:
    from trex.datasets.registry import load_splits

    splits = load_splits(name, config.data)
    members = [split.members for split in splits.values()]
    packed = sum(file.size for one in members if one is not None and one.packed for file in one.files)
    images[name] = _Images(
        sum(len(split) for split in splits.values()), len(splits["test"].classes), splits["trainval"], packed
    )
    counts = ", ".join(f"{len(split)} {split_name}" for split_name, split in splits.items())
    comparable = all(split.comparable for split in splits.values())
    note = "" if comparable else "; counts differ from the official ones: results will be marked not comparable"
    return f"data: {name}: {counts}, {len(splits['test'].classes)} classes{note}"


def _staging(folder: str, images: Mapping[str, _Images]) -> str:
    """Say which datasets the nodes copy."""
    packs = ", ".join(f"{name} ({in_bytes(one.packed)})" for name, one in images.items() if one.packed)
    others = ", ".join(name for name, one in images.items() if not one.packed)
    text = f"stage: each node copies to {folder}: {packs or 'nothing'}"
    return f"{text}; no packs, so read in place: {others} (to make one: trex data pack NAME)" if others else text


def _labels(config: Config) -> Iterator[Finding]:
    """Datasets whose images have several classes: what cannot be done with them, and what is left out."""
    for require in (require_one_class, require_kinds):
        try:
            require(config, "run")
        except UserError as error:
            yield Finding(False, str(error))
    for name in config.extract.datasets:
        if kinds_of(config.probe, name) and (sentence := left_out(config.probe, name)):
            yield Finding(True, f"probes: {sentence}")


def _processes(config: Config, cluster: Cluster, found: Mapping[str, _Images]) -> Iterator[Finding]:
    """The CPUs and the memory of training and extraction. Other checks report an encoder or data that do not exist."""
    needs = []
    with contextlib.suppress(UserError):
        encoder = 0 if config.extract.weights == "pixels" else encoder_size(config.model.encoder).parameters * 4
        needs.append(Needs.of("extract", config, cluster, encoder))
        if config.extract.weights == "trained" and config.data.dataset in found:
            state = planned_checkpoint_bytes(config, found[config.data.dataset].classes)
            needs.insert(0, Needs.of("train", config, cluster, state))
    for one in needs:
        if warning := cpu_warning(one, cluster):
            yield Finding(True, warning)
        yield Finding.of(functools.partial(require_memory_for, one, cluster))


def _memory(config: Config, cluster: Cluster) -> str:
    largest = require_memory(config, cluster)
    if not largest:
        return "memory: not known before the extraction, because no dataset has official counts"
    return f"memory: the largest probe needs {largest:.1f} GB"


def _time(config: Config, cluster: Cluster) -> Iterator[Finding]:
    """How long the probes take. The check of their memory reports what is wrong with the settings."""
    with contextlib.suppress(UserError):
        if text := probe_cost(config, cluster):
            yield Finding(True, f"time: {text}")


def _write_rights(run: RunDir) -> str:
    folder = _existing(run.root)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"permission: cannot write to {folder} ({error.strerror}): choose another folder with runs=…"
        ) from error
    return f"permission: {folder} is writable"


def _space(run: RunDir, config: Config, found: Mapping[str, _Images]) -> str:
    """Compare the free space with what is needed: refuse if nothing useful has place, warn if not all has."""
    checkpoint, count = _checkpoints(run, config, found)
    largest, features = _feature_files(run, config, found)
    least, total = max(checkpoint, 2 * largest), count * checkpoint + features + largest  # blocks, and the file of them
    inodes = count * 4 + 100  # and a few for logs, states and results
    space = Space.at(run.root)
    text = f"{space}, and about {in_bytes(total)} are needed for checkpoints and features"
    if space.lacks(least, inodes):
        alone = f"a checkpoint or the features of a dataset alone need {in_bytes(least)}"
        raise UserError(f"disk: {text}; {alone}: delete files there, or choose another folder with runs=…")
    if space.lacks(total, inodes):
        return f"disk: warning: {text}: delete files there before it is full, or choose another folder with runs=…"
    return f"disk: {text}"


def _checkpoints(run: RunDir, config: Config, found: Mapping[str, _Images]) -> tuple[int, int]:
    """Return how many bytes a checkpoint takes, and how many more of them will be kept at once."""
    newest = newest_manifest(run.checkpoints)
    is_trained = newest is not None and newest[1].finished
    if config.extract.weights != "trained" or is_trained or config.data.dataset not in found:
        return 0, 0
    size = planned_checkpoint_bytes(config, found[config.data.dataset].classes)
    return size, missing_checkpoints(run.checkpoints, config)


def _feature_files(run: RunDir, config: Config, found: Mapping[str, _Images]) -> tuple[int, int]:
    """Return how many bytes the largest missing dataset of features takes, and all that are missing."""
    from trex.features.origin import feature_dim

    per_image = feature_dim(config) * (4 if config.extract.dtype == "float32" else 2)

    def size(name: str) -> int:
        return found[name].count * per_image if name in found else 0

    missing = [name for name in config.extract.datasets if not run.features(name, "test").exists()]
    total = sum(map(size, missing))
    if config.probe.at == "milestones":  # features that are deleted after the probes count once
        every = config.checkpoint.milestone_epochs
        milestones = (config.train.epochs - 1) // every if every else 0
        total += sum(map(size, config.probe.at_datasets)) * (milestones if config.probe.at_keep_features else 1)
    return max(map(size, missing), default=0), total


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.is_dir())
