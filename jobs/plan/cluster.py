"""Cluster files: where the stages of any recipe run, and with what. One line adapts a recipe: `CLUSTER=mycluster`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.plan import lookup
from trex.config import Config
from trex.config.loader import section, setting
from trex.errors import UserError
from trex.suggest import did_you_mean

#: A value of a scheduler's option: one word, so that nothing in it can become a line of its own in the batch script.
WORD = r"[A-Za-z0-9_/][A-Za-z0-9_.,:@&|*()\[\]=/+%-]{0,199}"


@dataclass(frozen=True)
class StageResources:
    """What one job of a stage asks for."""

    partition: str | None = setting(None, "partition; none: your default, or the cluster's", pattern=WORD)
    account: str | None = setting(None, "account that is charged; none: your default", pattern=WORD)
    qos: str | None = setting(None, "quality of service; none: your default", pattern=WORD)
    constraint: str | None = setting(None, "node features, such as a100|h100", pattern=WORD)
    nodes: int = setting(1, "nodes per job", at_least=1)
    gpus_per_node: int = setting(
        0, "GPUs per node; where the options name their type, this is still how many processes", at_least=0
    )
    tasks_per_node: int = setting(0, "processes per node; 0: one per GPU, or one", at_least=0)
    cpus_per_task: int = setting(1, "CPUs per process, its loader workers' included", at_least=1)
    memory_gb: int = setting(0, "memory per node, GB; 0: the cluster's default", at_least=0)
    time: str = setting(
        "1-00:00:00",
        "time limit, in one of the cluster's forms; a job that reaches it saves, is requeued and continues",
        pattern=WORD,
    )
    signal_lead: int = setting(
        120, "seconds before the time limit at which the job is told to save; at most a third of the limit", at_least=10
    )
    max_parallel: int = setting(
        0, "jobs of a stage that run at once, of one submission; 0: as many as the cluster allows", at_least=0
    )
    options: dict[str, str] = setting(
        {},
        "further options of the submit command by long name, without the dashes; yes: an option without a value",
    )

    @property
    def tasks(self) -> int:
        """Processes per node."""
        return self.tasks_per_node or max(self.gpus_per_node, 1)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Options that are not plain words."""
        for key, value in self.options.items():
            if not re.fullmatch(r"[a-z][a-z0-9-]*", key) or not re.fullmatch(WORD, value):
                yield "options", f"has {key}: {value!r}: expected the long name of an option and a plain value"


@dataclass(frozen=True)
class Cluster:
    """One cluster."""

    kind: str = setting("slurm", "what runs the jobs: slurm, or local for this machine")
    data_root: str | None = setting(None, "folder of the datasets here, for recipes that leave data.root as it is")
    setup: tuple[str, ...] = setting((), "lines of the batch script before the job, such as module load cuda")
    max_array_size: int = setting(
        0, "tasks per job array; 0: as the cluster says (MaxArraySize); 1: no arrays", at_least=0
    )
    train: StageResources = section(StageResources, "training")
    extract: StageResources = section(StageResources, "feature extraction, one job per dataset")
    probe: StageResources = section(
        StageResources, "linear probes on CPUs, one job per dataset, or per dataset and seed (probe.seeds_per_job)"
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
                    f"has {stage.tasks} processes for {stage.gpus_per_node} GPUs per node: expected one per GPU, "
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
