"""The interface between the rest of jobs/ and the back ends that run the jobs.

A back end is a package `jobs/<kind>/` whose module `backend` defines an object `BACKEND`. `kind: <kind>` in a cluster
file selects it. Back ends need no registration: every folder with such a module is found.
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
from jobs.plan.defaults import with_data
from jobs.plan.spec import TaskSpec
from jobs.worker.place import Site, Task
from trex.config import Config, load
from trex.errors import ExitCode, RunLocked, TrexError
from trex.records.attempts import Start
from trex.records.lock_owner import LockOwner
from trex.records.run_dir import RunDir
from trex.records.submission import Submission
from trex.wording import did_you_mean


class QueueState(Enum):
    """The state of a job in a queue."""

    WAITING = "waiting"  #: not started yet, or requeued
    HELD = "on hold"  #: waits until somebody releases it
    NEVER = "never starts"  #: waits for something that can no longer happen
    RUNNING = "running"
    EVICTED = "preempted"  #: still runs, but has to end because of another job
    PAUSED = "suspended"  #: has its nodes, but does not run
    ENDING = "ending"  #: its processes have ended or are being stopped; soon it is gone, or waits again

    @property
    def has_started(self) -> bool:
        """Whether the job has its nodes."""
        return self not in (QueueState.WAITING, QueueState.HELD, QueueState.NEVER)


@dataclass(frozen=True)
class QueuedJob:
    """A job of a run that is in a queue."""

    key: str  #: the stage, or stage and dataset, as in the name of its state file
    job: str  #: job id; only the back end parses it
    state: QueueState
    about: str  #: why it waits, what can be done about that, or where it runs and how long, for the user


@dataclass(frozen=True)
class Answers:
    """What the back ends know about the jobs of some runs."""

    queued: Mapping[Path, Sequence[QueuedJob]]  #: by the run's folder, oldest first
    #: By the run's folder and the job id, which several clusters may use; oldest first. Empty without accounting.
    starts: Mapping[Path, Mapping[str, Sequence[Start]]]
    silent: tuple[str, ...] = ()  #: titles of the queues that did not answer
    unknown: tuple[str, ...] = ()  #: what else is not known, as sentences for the user


@dataclass(frozen=True)
class Finding:
    """The result of one check of `trex check`."""

    ok: bool
    text: str

    @classmethod
    def of(cls, check: Callable[[], str]) -> Finding:
        """Call `check`. The finding is the text that it returns, or the message of the TrexError that it raises."""
        try:
            return cls(True, check())
        except TrexError as error:
            return cls(False, str(error))


class Backend(Protocol):
    """One way to run jobs."""

    title: str  #: its name in messages: "Slurm", "this machine"
    has_queue: bool  #: whether `launch` returns when the jobs are in a queue, not when they have ended

    def is_available(self) -> bool:
        """Return whether jobs can be started from here. The first available back end is the default.

        Raises:
            TrexError: if they belong there but it does not answer now.
        """
        ...

    def problems(self, cluster: Cluster) -> Iterator[tuple[str, str]]:
        """Yield the settings of a cluster file that this back end does not accept.

        Each is a pair: the setting, such as `train.options`, and what is wrong with it, as the end of a sentence that
        begins with the setting.
        """
        ...

    def check(self, run: RunDir, config: Config, cluster: Cluster) -> Iterator[Finding]:
        """Check for problems that would make jobs fail or be rejected here. Changes nothing."""
        ...

    def launch(
        self, run: RunDir, config: Config, cluster: Cluster, specs: Sequence[TaskSpec], processes: int | None,
        dry_run: bool, verbose: bool = False,
    ) -> ExitCode:  # fmt: skip
        """Run `specs` in their order, or submit them to a queue, except for jobs that are in the queue already.

        Saves the config in the run folder first. A dry run prints what would be done and creates nothing.

        Args:
            processes: the number of processes that the user asked for; None: as the cluster file says.
            verbose: whether a dry run prints batch scripts completely.

        Returns:
            How the work ended, or DONE if it was submitted to a queue.

        Raises:
            UserError: if it cannot be started as requested; ResumeRefused: if the folder holds another run.
        """
        ...

    def ask(self, runs: Sequence[RunDir]) -> Answers:
        """Ask the queue and accounting about the jobs of `runs`, in as few calls as possible.

        A queue that does not answer within ten seconds is named in `Answers.silent`. Damaged submission records are
        skipped.
        """
        ...

    def queued(self, run: RunDir) -> list[QueuedJob]:
        """Return the jobs of a run that are in the queue, oldest first.

        Raises:
            TrexError: if the queue does not answer; RecordError: if a submission record is damaged.
        """
        ...

    def cancel(self, run: RunDir) -> list[str]:
        """Cancel the jobs of a run; running jobs save first. Returns the key of each.

        Raises:
            TrexError: if the queue does not answer, or if it rejects the request.
        """
        ...

    def owner_is_alive(self, owner: LockOwner, task: Task) -> bool:
        """Return whether the process that took a lock, in a job of this back end, still runs.

        An earlier start of the same job counts as ended.

        Raises:
            RunLocked: if this cannot be found out. The message is the beginning of a sentence.
        """
        ...

    def addresses(self, node: str) -> Sequence[str]:
        """Return the names or addresses by which other nodes may reach `node`, the most likely first.

        Only those that the back end knows and the node itself does not.
        """
        ...

    def leave_job(self) -> None:
        """Remove the variables of a job of this back end from this process's environment.

        A job that is started from inside another job must not inherit the variables of the outer one.
        """
        ...


def kinds() -> list[str]:
    """Return all values that `kind` in a cluster file can have."""
    return sorted(path.parent.name for place in jobs.__path__ for path in Path(place).glob("*/backend.py"))


def backend(kind: str) -> Backend:
    """Return the back end of that kind, which must exist."""
    return cast(Backend, importlib.import_module(f"jobs.{kind}.backend").BACKEND)


def backends() -> dict[str, Backend]:
    """Return all back ends by kind."""
    return {kind: backend(kind) for kind in kinds()}


def load_cluster(name: str) -> Cluster:
    """Read the cluster file `name`, a path, or the name of a file in configs/clusters/, with the user's defaults.

    Raises:
        UserError: if there is no such file; ConfigError: with the file and line of each mistake in it.
    """
    return with_data(read_cluster(find_cluster(name)))


def read_cluster(path: Path) -> Cluster:
    """Read the cluster file at `path`.

    Raises:
        ConfigError: with the file and line of each mistake in it.
    """
    return load(path, Cluster, further_problems=_problems)


def _owner_is_alive(owner: LockOwner, task: Task) -> bool:
    if owner.backend not in kinds():
        raise RunLocked(f"held by job {owner.job} of the unknown back end {owner.backend!r}, which cannot be asked")
    return backend(owner.backend).owner_is_alive(owner, task)


def _addresses(task: Task) -> Sequence[str]:
    return backend(task.backend).addresses(task.node)


def _has_queue(task: Task) -> bool:
    return backend(task.backend).has_queue


def starts_of(run: RunDir) -> dict[str, Sequence[Start]]:
    """Ask the accounting of all back ends about the jobs of a run: the starts of each, oldest first, by job id."""
    used = {one.backend for one in Submission.of(run).records}.intersection(kinds())
    asked = [backend(kind).ask([run]).starts.get(run.root, {}) for kind in sorted(used)]
    return {job: starts for one in asked for job, starts in one.items()}


SITE = Site(_owner_is_alive, _addresses, _has_queue, starts_of)  #: passed to the processes of all back ends


def _problems(cluster: Cluster) -> Iterable[tuple[str, str]]:
    if cluster.kind in kinds():
        return backend(cluster.kind).problems(cluster)
    hint = did_you_mean(cluster.kind, kinds())
    return [("kind", f"is {cluster.kind!r}: expected one of {', '.join(kinds())}{hint}")]
