"""Records how each start of a job ended: the state, which the next start and the batch script read, and the history.

runs/<name>/jobs/<key>.state.json   the job's current state (trex/records/job_state.py)
runs/<name>/events.jsonl            each start and each end, with the reason (trex/records/events.py)
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.plan.spec import Item, TaskSpec
from jobs.worker.lock import locked
from jobs.worker.place import Site, Task
from trex.errors import ExitCode, NoProgress, TrexError
from trex.files import checked_writes
from trex.records.events import AttemptEnded, AttemptStarted, record
from trex.records.job_state import JobState, State
from trex.records.manifest import checkpoint_folders
from trex.records.run_dir import RunDir
from trex.storage import unwritable

log = logging.getLogger(__name__)

#: After this many starts of a job in a row without anything new on disk, the job is not started again. The batch script
#: uses the same number (jobs/slurm/submit.py) for starts that die before they record anything.
MAX_STARTS_WITHOUT_PROGRESS = 5

#: How long rank 0 waits for the record of a rank that is lost.
SECONDS_FOR_A_RECORD = 5.0
#: How long another rank that fails waits for rank 0's own record of the end.
_SECONDS_FOR_RANK_0 = 1.0

_STATES: dict[ExitCode, State] = {
    ExitCode.DONE: State.DONE,
    ExitCode.INTERRUPTED: State.WANTS_REQUEUE,
    ExitCode.LOST: State.RUNNING,  # as if this process had been killed
}


@dataclass(frozen=True)
class Outcome:
    """How one process's part of a job ended."""

    code: ExitCode = ExitCode.DONE
    reason: str = "finished"  #: for the user

    @property
    def failed(self) -> bool:
        """Whether it ended with an error of its own work.

        That is not so if it finished, was asked to stop, or lost another process, a connection or a GPU.
        """
        return self.code not in (ExitCode.DONE, ExitCode.INTERRUPTED, ExitCode.LOST)


def record_failure(run: RunDir, spec: TaskSpec, task: Task, outcome: Outcome) -> None:
    """Record why a rank other than rank 0 failed, because rank 0 may be killed before it finds out itself.

    What cannot be recorded is logged. If rank 0 ends at the same time, for example because all ranks agreed that the
    training cannot go on, its own record stays.
    """
    deadline = time.monotonic() + _SECONDS_FOR_RANK_0
    while time.monotonic() < deadline and _is_running(JobState.of_or_none(run, spec.keys[0]), task):
        time.sleep(0.1)
    reason = f"rank {task.rank} on {task.node}: {outcome.reason}"
    for key in spec.keys:
        found = JobState.of_or_none(run, key)
        if found is not None and _is_running(found, task):
            failed = replace(found, state=State.FAILED, code=int(outcome.code), reason=reason, time=_now())
            with logged(run.state(key)):
                failed.save(run, key)


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Log an error of the file system in the block, which writes or deletes `path` at the end of a job.

    Then the log and the exit code are the only record.
    """
    try:
        yield
    except (OSError, TrexError) as error:
        log.error("not recorded: %s", unwritable(error, path) if isinstance(error, OSError) else error)


def _is_running(found: JobState | None, task: Task) -> bool:
    """Return whether this start of the job recorded the state, and not yet its end."""
    return found is not None and found.state == State.RUNNING and _is_of(found, task)


def _is_of(found: JobState, task: Task) -> bool:
    """Return whether this start of the job recorded the state."""
    return (found.job, found.restart) == (task.job_id, task.restart)


def _now() -> float:
    return round(time.time(), 3)


@dataclass(frozen=True)
class _Status:
    """The current status of a job, from which its state file and its history are written."""

    state: State
    code: int | None
    reason: str
    signal: str | None
    mark: str
    time: float


class Attempt:
    """One start of one job of a run. Rank 0 keeps its records."""

    def __init__(self, run: RunDir, spec: TaskSpec, task: Task, site: Site) -> None:
        self.run, self.spec, self.task, self.site = run, spec, task, site
        self.keys = spec.keys
        self.open_keys = list(self.keys)
        self.start_time = time.time()
        self.mark_at_start = "nothing"
        self.starts_without_progress = 1
        self.started = False

    def start(self, locks: ExitStack) -> None:
        """Take the locks of the stage, which `locks` releases, and record the start.

        Raises:
            RunLocked: if another running job holds one; nothing is recorded then.
            OSError: if the start cannot be recorded; the job would not be able to write anything else either.
            NoProgress: if the last starts of the same job left nothing new on disk.
        """
        for key in self.keys:
            lock = locks.enter_context(locked(self.run.lock(key), self.task, self.site))
            locks.enter_context(checked_writes(lock.check))
        self.started = True
        self.mark_at_start = self.mark()
        self.starts_without_progress = self._starts_without_progress()
        event = AttemptStarted(
            _now(), self.spec.stage, self.keys, self.task.job_id, self.task.restart, self.mark_at_start,
            nodes=self.task.node_count, node=self.task.node, world=self.task.world,
        )  # fmt: skip
        record(event, self.run.events)
        if self.starts_without_progress > MAX_STARTS_WITHOUT_PROGRESS:
            raise NoProgress(
                f"started {self.starts_without_progress - 1} times without progress (on disk: {self.mark_at_start}): "
                f"not requeued any more. The logs in {self.run.jobs} say how each start ended; fix the cause and "
                f"submit it again."
            )
        for key in self.keys:
            self._save(key, _Status(State.RUNNING, None, "", None, self.mark_at_start, _now()))

    def _starts_without_progress(self) -> int:
        """Return how many starts of this job in a row, including this one, found nothing new on disk.

        Restarts that died before they could record anything count too.
        """
        before = JobState.of_or_none(self.run, self.keys[0])
        if before is None or (before.job, before.mark) != (self.task.job_id, self.mark_at_start):
            return 1
        return before.starts_without_progress + max(self.task.restart - before.restart, 1)

    def finish_item(self, item: Item) -> None:
        """Record that one item of the job is done. If this cannot be recorded, the next start finds its results."""
        key = f"{self.spec.stage}-{item.name}"
        self.open_keys.remove(key)
        with logged(self.run.state(key)):
            self._save(key, _Status(State.DONE, ExitCode.DONE, "finished", None, self.mark(), _now()))

    def end(self, outcome: Outcome, signal: str | None) -> None:
        """Record the end: exit code, reason, and the stop signal, if there was one.

        Records nothing if the start was refused because another job holds the lock, or has taken it over, and nothing
        if the run folder is gone. After the loss of another process, a connection or a GPU, the state stays `running`,
        as when processes are killed, and has the reason. If another rank failed and this one was asked to stop because
        of it or lost it, the record of the failed rank stays.

        Never fails: what cannot be recorded is logged, and the batch script decides by the exit code.
        """
        if not self.started or outcome.code == ExitCode.SUPERSEDED or not self.run.root.is_dir():
            return
        mark = self.mark_at_start
        with logged(self.run.root):
            mark = self.mark()
        state = _STATES.get(outcome.code, State.FAILED)
        end = _Status(state, int(outcome.code), outcome.reason, signal, mark, _now())
        for key in self.open_keys:
            if outcome.failed or self._failure(key) is None:
                with logged(self.run.state(key)):
                    self._save(key, end)
        event = AttemptEnded(
            end.time, self.spec.stage, self.keys, self.task.job_id, self.task.restart, int(outcome.code),
            end.reason, signal, end.mark, seconds=round(end.time - self.start_time, 3),
        )  # fmt: skip
        with logged(self.run.events):
            record(event, self.run.events)

    def _save(self, key: str, now: _Status) -> None:
        starts = self.starts_without_progress if now.mark == self.mark_at_start else 0
        JobState(
            now.state, now.code, now.reason, now.signal, self.task.job_id, self.task.restart, now.mark, starts, now.time
        ).save(self.run, key)

    def failure_of_another(self) -> Outcome | None:
        """Return what a failed rank recorded with `record_failure`, or None.

        Waits up to `SECONDS_FOR_A_RECORD` for the file to become visible on a shared file system.
        """
        deadline = time.monotonic() + SECONDS_FOR_A_RECORD
        while time.monotonic() < deadline:
            for failure in filter(None, map(self._failure, self.open_keys)):
                return failure
            time.sleep(0.1)
        return None

    def _failure(self, key: str) -> Outcome | None:
        """Return the failure that was recorded for this start, or None."""
        found = JobState.of_or_none(self.run, key)
        if found is not None and found.state == State.FAILED and found.code is not None and _is_of(found, self.task):
            return Outcome(ExitCode(found.code), found.reason)
        return None

    def mark(self) -> str:
        """Return a short description of what the stage has on disk. It changes as soon as something is added."""
        if self.spec.stage == "train":
            return next((path.name for path in checkpoint_folders(self.run.checkpoints)), "nothing")
        sizes = [path.stat().st_size for item in self.spec.items for path in self._files(item)]
        return f"{len(sizes)} files of {sum(sizes)} bytes"

    def _files(self, item: Item) -> Iterator[Path]:
        """Yield the files of an item. Results of other seeds belong to other jobs and are left out."""
        probe = self.spec.stage == "probe"
        at = self.run.at(item.milestone)
        folder = at.probes(item.dataset) if probe else at.features(item.dataset, "test").parent
        for path in folder.rglob("*"):
            seed = re.search(r"seed_(\d+)", path.name)
            if path.is_file() and not (item.seeds and seed and int(seed[1]) not in item.seeds):
                yield path
