"""Where jobs run, as the rest of jobs/ sees it.

A back end is a package `jobs/<kind>/` whose module `backend` holds one object, `BACKEND`; a cluster file chooses it
with `kind: <kind>`. Nothing has to be registered: a folder with such a module is a kind.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol, cast

import jobs
from jobs.plan.cluster import Cluster, find_cluster
from jobs.plan.spec import TaskSpec
from jobs.worker.place import Site, Task
from trex.config import Config, load
from trex.errors import ExitCode, RunLocked, TrexError
from trex.records.lock_owner import LockOwner
from trex.records.run_dir import RunDir
from trex.suggest import did_you_mean


class QueueState(Enum):
    """What a queue says of a job that it still holds."""

    WAITING = "waiting"  #: not started yet, or put back into the queue
    RUNNING = "running"
    ENDING = "ending"  #: its processes have ended or are told to; in a moment it is gone, or waits again


@dataclass(frozen=True)
class QueuedJob:
    """A job of a run that a queue still holds."""

    key: str  #: the stage, or stage and dataset, as in the name of its state file
    job: str  #: its id; only the back end takes it apart
    state: QueueState
    reason: str  #: why it waits, in the back end's words
    nodes: str  #: where it runs
    elapsed: str  #: for how long, as the back end writes times
    left: str  #: and how much longer it may


@dataclass(frozen=True)
class Start:
    """What accounting says of one start of a job."""

    ending: str  #: how it ended, in the back end's word, such as COMPLETED
    seconds: int  #: how long it held its nodes


@dataclass(frozen=True)
class Answers:
    """What back ends say of the jobs of some runs; empty where there is nothing to ask about."""

    queued: Mapping[Path, Sequence[QueuedJob]]  #: by the run's folder, oldest first
    starts: Mapping[str, Sequence[Start]]  #: by job id, oldest first; none where there is no accounting
    silent: tuple[str, ...] = ()  #: titles of the back ends that do not answer


@dataclass(frozen=True)
class Finding:
    """What `trex check` found out about one thing."""

    ok: bool
    text: str

    @classmethod
    def of(cls, check: Callable[[], str]) -> Finding:
        """What `check` returns; an error of it that is meant for the user is what is wrong."""
        try:
            return cls(True, check())
        except TrexError as error:
            return cls(False, str(error))


class Backend(Protocol):
    """One way to run jobs."""

    title: str  #: as a message names it: "Slurm", "this machine"

    def answers(self) -> bool:
        """Whether jobs can be started from here without saying more. The first back end that answers is the default."""
        ...

    def problems(self, cluster: Cluster) -> Iterator[tuple[str, str]]:
        """What a cluster file says that this back end does not take: the setting, such as `train.options`, and what is
        wrong with its value, as the end of a sentence that begins with the setting."""
        ...

    def check(self, run: RunDir, config: Config, cluster: Cluster) -> Iterator[Finding]:
        """Look for what would make jobs fail or be refused here; changes nothing."""
        ...

    def launch(
        self, run: RunDir, config: Config, cluster: Cluster, specs: Sequence[TaskSpec], processes: int | None,
        dry_run: bool,
    ) -> ExitCode:  # fmt: skip
        """Do `specs`, in their order, or put them into a queue; leaves out what waits or runs there already.

        Saves the config in the run folder first. A dry run prints what would be done and creates nothing.

        Args:
            processes: how many a person asked for; None: as the cluster file says.

        Returns:
            How the work ended, or, where it was only put into a queue, DONE.

        Raises:
            UserError: if it cannot be started as asked for; ResumeRefused: if the folder holds another run.
        """
        ...

    def ask(self, runs: Sequence[RunDir]) -> Answers:
        """What the queue and its accounting say of the jobs of `runs`, in as few calls as possible. A queue that
        does not answer is named in `Answers.silent`; damaged records of submissions are left out."""
        ...

    def queued(self, run: RunDir) -> list[QueuedJob]:
        """The jobs of a run that the queue still holds, oldest first.

        Raises:
            TrexError: if the queue does not answer; RecordError: if a record of a submission is damaged.
        """
        ...

    def cancel(self, run: RunDir) -> list[str]:
        """Cancel the jobs of a run; running ones save first. Returns the key of each.

        Raises:
            TrexError: if the queue does not answer, or refuses.
        """
        ...

    def owner_lives(self, owner: LockOwner, task: Task) -> bool:
        """Whether the process that took a lock, in a job of this back end, still works. An earlier start of the same
        job does not.

        Raises:
            RunLocked: if nobody can tell; the message is the beginning of a sentence.
        """
        ...

    def addresses(self, node: str) -> Sequence[str]:
        """Names or addresses by which the other nodes of a job may reach `node`, where the back end knows better than
        the node itself; the likeliest first."""
        ...

    def leave_job(self) -> None:
        """Drop from this process's environment what a job of this back end put there: a job that is started from inside
        another one must not take that one's variables for its own."""
        ...


def kinds() -> list[str]:
    """The kinds of clusters that a cluster file can name."""
    return sorted(path.parent.name for place in jobs.__path__ for path in Path(place).glob("*/backend.py"))


def backend(kind: str) -> Backend:
    """The back end of that kind, which must exist."""
    return cast(Backend, importlib.import_module(f"jobs.{kind}.backend").BACKEND)


def backends() -> dict[str, Backend]:
    """All back ends by their kind."""
    return {kind: backend(kind) for kind in kinds()}


def load_cluster(name: str) -> Cluster:
    """The cluster file `name`: a path, or the name of a file in configs/clusters/.

    Raises:
        UserError: if there is none; ConfigError: if it is wrong, with file and line of each mistake.
    """
    return read_cluster(find_cluster(name))


def read_cluster(path: Path) -> Cluster:
    """The cluster file at `path`.

    Raises:
        ConfigError: if it is wrong, with file and line of each mistake.
    """
    return load(path, Cluster, further_problems=_problems)


def _owner_lives(owner: LockOwner, task: Task) -> bool:
    if owner.backend not in kinds():
        raise RunLocked(f"held by job {owner.job} of {owner.backend}, which cannot be asked from here")
    return backend(owner.backend).owner_lives(owner, task)


def _addresses(task: Task) -> Sequence[str]:
    return backend(task.backend).addresses(task.node)


SITE = Site(_owner_lives, _addresses)  #: for the processes of all back ends


def _problems(cluster: Cluster) -> Iterable[tuple[str, str]]:
    if cluster.kind in kinds():
        return backend(cluster.kind).problems(cluster)
    hint = did_you_mean(cluster.kind, kinds())
    return [("kind", f"is {cluster.kind!r}: expected one of {', '.join(kinds())}{hint}")]
