"""Cluster files: where the stages of any recipe run, and with what. One line adapts a recipe: `CLUSTER=mycluster`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.plan import lookup
from trex.config import Config, load
from trex.config.loader import section, setting
from trex.errors import UserError
from trex.suggest import did_you_mean

#: Slurm's time forms: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].
TIME = r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2}"
#: A value of an sbatch option: one word, so that nothing in it can become a line of its own in the batch script.
WORD = r"[A-Za-z0-9_/][A-Za-z0-9_.,:@&|*()\[\]=/+%-]{0,199}"
#: sbatch options that the toolkit writes itself, or that would let a file run a command of its own.
_OWNED = {
    "array", "chdir", "comment", "cpus-per-task", "dependency", "error", "export", "export-file", "get-user-env", "gid",
    "input", "job-name", "kill-on-invalid-dep", "no-requeue", "nodes", "ntasks", "ntasks-per-node", "open-mode",
    "output", "requeue", "signal", "test-only", "uid", "wait", "wrap",
}  # fmt: skip


@dataclass(frozen=True)
class StageResources:
    """What one job of a stage asks for."""

    partition: str | None = setting(None, "partition; none: SBATCH_PARTITION, or the cluster's default", pattern=WORD)
    account: str | None = setting(None, "account that is charged; none: SBATCH_ACCOUNT, or your default", pattern=WORD)
    qos: str | None = setting(None, "quality of service; none: SBATCH_QOS, or your default", pattern=WORD)
    constraint: str | None = setting(None, "node features, such as a100|h100", pattern=WORD)
    nodes: int = setting(1, "nodes of a job", at_least=1)
    gpus_per_node: int = setting(
        0, "GPUs a node; where the options name their type, this is still how many processes", at_least=0
    )
    tasks_per_node: int = setting(0, "processes a node; 0: one a GPU, or one", at_least=0)
    cpus_per_task: int = setting(1, "CPUs a process, its loader workers' included", at_least=1)
    memory_gb: int = setting(0, "memory a node, GB; 0: the cluster's default", at_least=0)
    time: str = setting(
        "1-00:00:00", "time limit, in Slurm's forms; a job that reaches it is requeued and goes on", pattern=TIME
    )
    signal_lead: int = setting(
        120, "seconds before the time limit at which the job is told to save; at most a third of the limit", at_least=10
    )
    max_parallel: int = setting(
        0, "jobs of a stage that run at once, of one submission; 0: as many as the cluster lets", at_least=0
    )
    options: dict[str, str] = setting(
        {}, "further sbatch options by long name, without the dashes; yes: an option without a value"
    )

    @property
    def tasks(self) -> int:
        """Processes a node."""
        return self.tasks_per_node or max(self.gpus_per_node, 1)

    @property
    def names_gpus(self) -> bool:
        """Whether the further options ask for the GPUs, such as gpus-per-node: a100:4; sbatch is then told no other."""
        return "gpu" in self.options.get("gres", "") or any(key.startswith("gpus") for key in self.options)

    @property
    def lead(self) -> int:
        """Seconds from the warning to the time limit: a lead as long as the limit would stop the job as it starts."""
        return min(self.signal_lead, seconds(self.time) // 3)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Options that are not plain words, or belong to the toolkit."""
        for key, value in self.options.items():
            if not re.fullmatch(r"[a-z][a-z0-9-]*", key) or not re.fullmatch(WORD, value):
                yield "options", f"has {key}: {value!r}: expected the long name of an sbatch option and a plain value"
            elif key in _OWNED:
                yield "options", f"has {key}, which the toolkit sets itself"
        if seconds(self.time) < 60:
            yield "time", f"is {self.time}: expected at least a minute (Slurm reads a plain number as minutes)"


@dataclass(frozen=True)
class Cluster:
    """One cluster."""

    kind: Literal["slurm", "local"] = setting("slurm", "slurm, or local for this machine")
    data_root: str | None = setting(None, "folder of the datasets here, for recipes that leave data.root as it is")
    setup: tuple[str, ...] = setting((), "lines of the batch script before the job, such as module load cuda")
    max_array_size: int = setting(
        0, "array tasks a job; 0: as the cluster says (MaxArraySize); 1: no arrays", at_least=0
    )
    train: StageResources = section(StageResources, "training")
    extract: StageResources = section(StageResources, "feature extraction, one job a dataset")
    probe: StageResources = section(
        StageResources, "linear probes on CPUs, one job a dataset, or a dataset and seed (probe.seeds_per_job)"
    )
    report: StageResources = section(StageResources, "the report")

    def stage(self, name: str) -> StageResources:
        """Resources of the stage `name`."""
        found: StageResources = getattr(self, name)
        return found

    def adapt(self, config: Config) -> Config:
        """The recipe with this cluster's folder of datasets."""
        if self.data_root is None or config.data.root != Config().data.root:
            return config
        return dataclasses.replace(config, data=dataclasses.replace(config.data, root=self.data_root))

    def problems(self) -> Iterator[tuple[str, str]]:
        """Stages that use one process must not be given several, nor the others more than there are GPUs."""
        for name in ("train", "extract"):
            stage = self.stage(name)
            if stage.tasks > stage.gpus_per_node > 0:
                yield (
                    name,
                    f"has {stage.tasks} processes for {stage.gpus_per_node} GPUs a node: expected one a GPU, "
                    f"tasks_per_node: {stage.gpus_per_node}, or none named",
                )
        for name in ("probe", "report"):
            stage = self.stage(name)
            if stage.nodes * stage.tasks > 1:
                count = stage.nodes * stage.tasks
                yield (
                    name,
                    f"has {count} processes: this stage uses one, with cpus_per_task threads (tasks_per_node: 1)",
                )


def seconds(time: str) -> int:
    """Seconds of a time in one of Slurm's forms: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    days, dash, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:
        hours, minutes, rest = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, rest = parts
    else:
        hours, (minutes, rest) = 0, (*parts, 0)[:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest


def find_cluster(name: str) -> Path:
    """The cluster file `name`: a path, or the name of a file where `jobs.plan.lookup` looks.

    Raises:
        UserError: if there is none.
    """
    for path in lookup.places(name, lookup.CLUSTERS):
        if path.is_file():
            return path
    known = lookup.known_names(lookup.CLUSTERS)
    hint = did_you_mean(Path(name).stem, known)
    searched = ", ".join(str(folder) for folder in lookup.folders(lookup.CLUSTERS)[:-1])
    raise UserError(
        f"no cluster file {name!r}: expected a path, or one of: {', '.join(known)}{hint}\n"
        f"Put a cluster file of your own, {Path(name).stem}.yaml, into one of these folders: {searched}"
    )


def load_cluster(name: str) -> Cluster:
    """The cluster that `name` means, as `find_cluster` does.

    Raises:
        UserError: if there is none; ConfigError: if it is wrong.
    """
    return load(find_cluster(name), Cluster)
