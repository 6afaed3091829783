"""What of a run is still to be done, from its files alone. Imports nothing heavy: submitting asks it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.task import Stage, TaskSpec
from trex.config.schema import WEIGHTS_OF_RUN, Config
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
    stages: tuple[Stage, ...] = ("train", "extract", "probe", "report")
    specs, done = [], []
    for name in stages if stage == "run" else [one for one in stages if one == stage]:
        items = _missing(run, config, name, asked=stage)
        if items is None:
            done.append(name)
        else:
            specs.append(TaskSpec(name, str(run.root), items))
    return Plan(tuple(specs), tuple(done))


def _missing(run: RunDir, config: Config, stage: Stage, asked: str) -> tuple[str, ...] | None:
    """Data sets that the stage has still to go through; None where it has nothing to do."""
    if stage == "train":
        wanted = asked == "train" or config.extract.weights == "trained"
        return () if wanted and not is_trained(run) else None
    if stage == "extract":
        return missing_features(run, config) or None
    if stage == "probe":
        return missing_probes(run, config) or None
    return ()


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


def is_trained(run: RunDir) -> bool:
    """Whether the newest checkpoint says that the training is complete."""
    folders = sorted(run.checkpoints.glob("epoch-*"), reverse=True)
    for folder in folders[:1]:
        try:
            return bool(read_json(folder / "manifest.json")["finished"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
    return False


def missing_features(run: RunDir, config: Config) -> tuple[str, ...]:
    """Data sets whose feature files are not both there."""
    parts = ("trainval", "test")
    return tuple(name for name in config.extract.datasets if not all(run.features(name, p).exists() for p in parts))


def missing_probes(run: RunDir, config: Config) -> tuple[str, ...]:
    """Data sets for which a result of any kind of probe or any seed is not there."""
    kinds = probe_kinds(config.probe)
    seeds = range(config.probe.seeds)
    return tuple(
        name
        for name in config.extract.datasets
        if not all(run.probe(name, kind, seed).exists() for kind in kinds for seed in seeds)
    )
