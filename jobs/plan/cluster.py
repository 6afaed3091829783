"""Cluster files: where the stages of a recipe run, and with which resources. Any recipe works with any cluster file."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.plan import lookup
from trex.config import Config
from trex.config.loader import section, setting
from trex.errors import UserError
from trex.wording import did_you_mean

#: A value of a scheduler option: one word, so that it cannot add a line to the batch script.
WORD = r"[A-Za-z0-9_/][A-Za-z0-9_.,:@&|*()\[\]=/+%-]{0,199}"

#: An absolute path on a node: it begins with /, ~ or a variable, and each $ names a variable.
NODE_FOLDER = r"(?=[/~$])(?:[^$]|\$\w+|\$\{\w+\})+"

#: The long name of an option.
OPTION = r"[a-z][a-z0-9-]*"


@dataclass(frozen=True)
class StageResources:
    """The resources that one job of a stage requests."""

    partition: str | None = setting(None, "partition; not set: your default, or the cluster's", pattern=WORD)
    account: str | None = setting(None, "account to charge; not set: your default", pattern=WORD)
    qos: str | None = setting(None, "quality of service; not set: your default", pattern=WORD)
    constraint: str | None = setting(None, "node features, such as a100|h100", pattern=WORD)
    nodes: int = setting(1, "nodes per job", at_least=1)
    gpus_per_node: int = setting(
        0, "GPUs per node; set it even if options requests the GPUs: one process runs per GPU", at_least=0
    )
    tasks_per_node: int = setting(0, "processes per node; 0: one per GPU, or one without GPUs", at_least=0)
    cpus_per_task: int = setting(1, "CPUs per process, including those of its loader workers", at_least=1)
    memory_gb: int = setting(0, "memory per node, GB; 0: the cluster's default", at_least=0)
    time: str = setting(
        "1-00:00:00",
        "time limit, in one of the cluster's formats; a job that reaches it saves, is requeued and continues",
        pattern=WORD,
    )
    signal_lead: int = setting(
        120,
        "seconds before the time limit at which the job is asked to save; at most a third of the limit. It must be "
        "longer than two steps and two saves together; the training warns if it is not",
        at_least=10,
    )
    max_parallel: int = setting(
        0, "largest number of jobs of one submission and stage that run at once; 0: no limit", at_least=0
    )
    options: dict[str, str] = setting(
        {},
        "further options of the submit command, by long name without dashes; yes: an option without a value",
    )

    @property
    def tasks(self) -> int:
        """Processes per node."""
        return self.tasks_per_node or max(self.gpus_per_node, 1)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield the options whose name or value is not a single plain word."""
        for key, value in self.options.items():
            if not re.fullmatch(OPTION, key) or not re.fullmatch(WORD, value):
                yield "options", f"has {key}: {value!r}: expected the long name of an option, and one word as its value"


@dataclass(frozen=True)
class Cluster:
    """The contents of a cluster file."""

    kind: str = setting("slurm", "what runs the jobs: slurm, or local for this machine")
    data_root: str | None = setting(
        None, "folder of the datasets on this cluster, for recipes that do not set data.root", path=True
    )
    stage: str | None = setting(
        None,
        "folder of each node, such as $TMPDIR or /local/scratch/$USER, to which training and extraction copy the packs "
        "that they read; ~ and variables are replaced on the node",
    )
    clusters: str | None = setting(
        None,
        "name of the cluster to submit to, if the scheduler has several; not set: that of this machine",
        pattern=r"[A-Za-z0-9_.-]+",
    )
    setup: tuple[str, ...] = setting(
        (), "lines of the batch script before the job, such as module load cuda; they run on the first node"
    )
    setup_process: tuple[str, ...] = setting(
        (), "lines that each process runs on its node before Python; if one fails, the job ends as failed"
    )
    launcher: str = setting(
        "", "program and options before Python in each process, quoted as in a shell; such as apptainer exec --nv x.sif"
    )
    python: str | None = setting(
        None, "Python of the jobs: a path, or a name in PATH, in the container; not set: the one that submits"
    )
    process_options: dict[str, str] = setting(
        {},
        "further options of the command that starts the processes, by long name without dashes; yes: an option "
        "without a value",
    )
    max_array_size: int = setting(
        0, "largest number of tasks per job array; 0: the cluster's own limit (MaxArraySize); 1: no arrays", at_least=0
    )
    train: StageResources = section(StageResources, "training")
    extract: StageResources = section(StageResources, "feature extraction, one job per dataset")
    probe: StageResources = section(
        StageResources,
        "probes, one job per dataset, or per dataset and seed (probe.seeds_per_job); exact uses a GPU if there is one",
    )
    report: StageResources = section(StageResources, "the report")

    def resources(self, name: str) -> StageResources:
        """Return the resources of the stage `name`."""
        found: StageResources = getattr(self, name)
        return found

    def adapt(self, config: Config) -> Config:
        """Return the recipe with this cluster's folder of datasets, unless the recipe sets its own."""
        if self.data_root is None or config.data.root != Config().data.root:
            return config
        return dataclasses.replace(config, data=dataclasses.replace(config.data, root=self.data_root))

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the launcher and with `stage`, and the stages with too many processes.

        Too many are more than GPUs, or more than one where only one is used.
        """
        yield from self._problems_of_launcher()
        if self.stage is not None and not re.fullmatch(NODE_FOLDER, self.stage):
            yield (
                "stage",
                f"is {self.stage!r}: expected an absolute path, with $NAME or ${{NAME}} for what is set on the node, "
                f"such as $TMPDIR",
            )
        for name in ("train", "extract"):
            stage = self.resources(name)
            if stage.tasks > stage.gpus_per_node > 0:
                yield (
                    name,
                    f"has {stage.tasks} processes for {stage.gpus_per_node} GPUs per node: expected one per GPU: set "
                    f"tasks_per_node: {stage.gpus_per_node}, or leave it out",
                )
        for name in ("probe", "report"):
            stage = self.resources(name)
            if stage.nodes * stage.tasks > 1:
                count = stage.nodes * stage.tasks
                yield (
                    name,
                    f"has {count} processes: expected one, with cpus_per_task threads (nodes: 1, tasks_per_node: 1)",
                )

    def _problems_of_launcher(self) -> Iterator[tuple[str, str]]:
        try:
            shlex.split(self.launcher)
        except ValueError as error:
            yield "launcher", f"is {self.launcher!r}: expected words, quoted as in a shell ({str(error).lower()})"
        if self.python == "":
            yield "python", "is empty: expected a path or the name of a program"
        for key, value in self.process_options.items():
            if not re.fullmatch(OPTION, key) or not value:
                yield "process_options", f"has {key}: {value!r}: expected the long name of an option, and its value"


def find_cluster(name: str) -> Path:
    """Find the cluster file `name`: a path, or the name of a file in one of the folders of `jobs.plan.lookup`.

    Raises:
        UserError: if it does not exist.
    """
    for path in lookup.places(name, lookup.CLUSTERS):
        if path.is_file():
            return path
    known = lookup.known_names(lookup.CLUSTERS)
    hint = did_you_mean(Path(name).stem, known)
    searched = ", ".join(str(folder) for folder in lookup.folders(lookup.CLUSTERS)[:-1])
    raise UserError(
        f"no cluster file {name!r}: expected a path, or one of: {', '.join(known)}{hint}\n"
        f"To add your own, put {Path(name).stem}.yaml into one of these folders: {searched}"
    )
