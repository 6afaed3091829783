"""Cluster files: where the stages of any recipe run, and with what. One line adapts a recipe: `CLUSTER=mycluster`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trex.config import load
from trex.config.loader import section, setting
from trex.errors import UserError

#: Slurm's time forms: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].
TIME = r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2}"
WORD = r"[A-Za-z0-9_][A-Za-z0-9_.,:@&|*()\[\]=/+-]{0,199}"
#: sbatch options that the toolkit writes itself, or that would let a file run a command of its own.
_OWNED = {
    "array", "chdir", "dependency", "error", "export", "get-user-env", "gid", "input", "job-name",
    "kill-on-invalid-dep", "nodes", "ntasks-per-node", "open-mode", "output", "requeue", "signal", "uid", "wrap",
}  # fmt: skip


@dataclass(frozen=True)
class StageResources:
    """What one job of a stage asks for."""

    partition: str | None = setting(None, "partition; none: the cluster's default", pattern=WORD)
    account: str | None = setting(None, "account that is charged", pattern=WORD)
    qos: str | None = setting(None, "quality of service", pattern=WORD)
    constraint: str | None = setting(None, "node features, such as a100|h100", pattern=WORD)
    nodes: int = setting(1, "nodes of a job", at_least=1)
    gpus_per_node: int = setting(0, "GPUs a node", at_least=0)
    tasks_per_node: int = setting(0, "processes a node; 0: one a GPU, or one", at_least=0)
    cpus_per_task: int = setting(1, "CPUs a process, its loader workers' included", at_least=1)
    memory_gb: int = setting(0, "memory a node, GB; 0: the cluster's default", at_least=0)
    time: str = setting(
        "1-00:00:00", "time limit, in Slurm's forms; a stopped job is requeued and goes on", pattern=TIME
    )
    signal_lead: int = setting(120, "seconds before the time limit at which the job is told to save", at_least=10)
    max_parallel: int = setting(0, "array tasks that run at once; 0: as many as the cluster lets", at_least=0)
    options: dict[str, str] = setting({}, "further sbatch options by long name, without the dashes")

    @property
    def tasks(self) -> int:
        """Processes a node."""
        return self.tasks_per_node or max(self.gpus_per_node, 1)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Options that are not plain words, or belong to the toolkit."""
        import re

        for key, value in self.options.items():
            if not re.fullmatch(r"[a-z][a-z0-9-]*", key) or not re.fullmatch(WORD, value):
                yield "options", f"has {key}: {value!r}: expected the long name of an sbatch option and a plain value"
            elif key in _OWNED:
                yield "options", f"has {key}, which the toolkit sets itself"


@dataclass(frozen=True)
class Cluster:
    """One cluster."""

    kind: Literal["slurm", "local"] = setting("slurm", "slurm, or local for this machine")
    setup: tuple[str, ...] = setting((), "lines of the batch script before the job, such as module load cuda")
    max_array_size: int = setting(
        0, "array tasks a job; 0: as the cluster says (MaxArraySize); 1: no arrays", at_least=0
    )
    train: StageResources = section(StageResources, "training")
    extract: StageResources = section(StageResources, "feature extraction, one job a data set")
    probe: StageResources = section(StageResources, "linear probes on CPUs, one job a data set and seed")
    report: StageResources = section(StageResources, "the report")

    def stage(self, name: str) -> StageResources:
        """Resources of the stage `name`."""
        found: StageResources = getattr(self, name)
        return found


def load_cluster(name: str) -> Cluster:
    """The cluster file `name`: a path, or the name of a file in configs/clusters/.

    Raises:
        UserError: if there is none; ConfigError: if it is wrong.
    """
    folder = Path("configs/clusters")
    for path in (Path(name), folder / f"{name}.yaml", Path(__file__).parents[1] / folder / f"{name}.yaml"):
        if path.is_file():
            return load(path, Cluster)
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UserError(f"no cluster file {name!r}: expected a path, or one of configs/clusters/: {', '.join(known)}{hint}")
