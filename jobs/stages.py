"""What of a run is still to be done, from its files alone. Imports nothing heavy: submitting asks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.spec import STAGES, Item, Stage, TaskSpec
from trex.config.schema import WEIGHTS_OF_RUN, Config, ProbeConfig
from trex.errors import UserError
from trex.files import read_json
from trex.probing.kinds import probe_kinds
from trex.rundir import RunDir


@dataclass(frozen=True)
class Plan:
    """What is to be done, in order, and what is not because it is done."""

    specs: tuple[TaskSpec, ...]
    done: tuple[Stage, ...]


def plan(run: RunDir, config: Config, stage: str) -> Plan:
    """The missing work of one stage, or with `run` of all of them. A stage before the wanted one is not included."""
    specs, done = [], []
    for name in STAGES if stage == "run" else [one for one in STAGES if one == stage]:
        missing = _missing(run, config, name, asked=stage)
        if missing is None:
            done.append(name)
        else:
            specs.append(TaskSpec(name, str(run.root), missing))
    return Plan(tuple(specs), tuple(done))


def _missing(run: RunDir, config: Config, stage: Stage, asked: str) -> tuple[Item, ...] | None:
    """What the stage has still to go through; None where it has nothing to do."""
    if stage == "train":
        wanted = asked == "train" or config.extract.weights == "trained"
        return () if wanted and not is_trained(run) else None
    if stage == "report":
        return ()
    return tuple(item for item in items(stage, config) if not is_done(run, config, stage, item)) or None


def items(stage: Stage, config: Config) -> tuple[Item, ...]:
    """All that a stage goes through: data sets; for probes each with as many of the seeds as one job does."""
    if stage == "extract":
        return tuple(Item(name) for name in config.extract.datasets)
    if stage == "probe":
        return tuple(Item(name, seeds) for name in config.extract.datasets for seeds in _seeds_of_jobs(config.probe))
    return ()


def is_done(run: RunDir, config: Config, stage: Stage, item: Item) -> bool:
    """Whether all files of an item are there: both parts' features; results of every kind of probe and every seed."""
    if stage == "extract":
        return all(run.features(item.dataset, part).exists() for part in ("trainval", "test"))
    seeds = item.seeds or range(config.probe.seeds)
    kinds = probe_kinds(config.probe)
    return all(run.probe(item.dataset, kind, seed).exists() for kind in kinds for seed in seeds)


def _seeds_of_jobs(config: ProbeConfig) -> list[tuple[int, ...]]:
    size = config.seeds_per_job or (1 if config.protocol == "published" else config.seeds)
    if size >= config.seeds:
        return [()]
    seeds = range(config.seeds)
    return [tuple(seeds[start : start + size]) for start in seeds[::size]]


def require_files(run: RunDir, config: Config, stage: str) -> None:
    """Raise UserError if a weights file is not there that the stage, or one of all with `run`, would read: a mistake
    that should not wait in a queue. A started training does not read its file again."""
    wanted = {}
    if stage in ("extract", "run") and config.extract.weights not in WEIGHTS_OF_RUN:
        wanted["extract.weights"] = config.extract.weights
    if stage in ("train", "run") and config.train.start and not any(run.checkpoints.glob("epoch-*")):
        wanted["train.start"] = config.train.start
    for setting, path in wanted.items():
        if not Path(path).is_file():
            words = f"; expected {', '.join(WEIGHTS_OF_RUN)}, or a file" if setting == "extract.weights" else ""
            raise UserError(f"{setting}: there is no file {path}{words}")


def missing_data(config: Config, specs: Sequence[TaskSpec]) -> dict[str, Path]:
    """Data sets that these would read and that are not where they are looked for, with that folder, seen from this
    machine: a cluster's nodes may have folders that its login node has not."""
    from trex.images.registry import folder_of, made_without_files

    names = [config.data.dataset] if any(spec.stage == "train" for spec in specs) else []
    names += [item.dataset for spec in specs if spec.stage == "extract" for item in spec.items]
    folders = {name: folder_of(name, config.data) for name in names if not made_without_files(name)}
    return {name: folder.absolute() for name, folder in folders.items() if not folder.is_dir()}


def is_trained(run: RunDir) -> bool:
    """Whether the newest checkpoint says that the training is complete."""
    folders = sorted(run.checkpoints.glob("epoch-*"), reverse=True)
    for folder in folders[:1]:
        try:
            return bool(read_json(folder / "manifest.json")["finished"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
    return False
