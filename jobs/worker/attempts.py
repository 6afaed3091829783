"""What became of each job of a run: its state, which the next start and the batch script read, and its history.

runs/<name>/jobs/<key>.state.json   where the job stands now (trex/records/job_state.py)
runs/<name>/events.jsonl            each start and each end, with why (trex/records/events.py)
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.plan.spec import Item, TaskSpec
from jobs.worker.lock import locked
from jobs.worker.place import Site, Task
from trex.errors import ExitCode, NoProgress
from trex.records.events import AttemptEnded, AttemptStarted
from trex.records.job_state import JobState, State
from trex.records.manifest import checkpoint_folders
from trex.records.run_dir import RunDir

#: So many starts of one job in a row without anything new on disk, and it is not started again. The batch script gets
#: this number from here (jobs/slurm/submit.py), for starts that die before they record anything.
MAX_STARTS_WITHOUT_PROGRESS = 5

#: What the main rank waits for the record of another one, when that one is lost.
SECONDS_FOR_A_RECORD = 5.0

_STATES: dict[ExitCode, State] = {ExitCode.DONE: State.DONE, ExitCode.INTERRUPTED: State.WANTS_REQUEUE}


@dataclass(frozen=True)
class Outcome:
    """How one process's part of a job ended."""

    code: ExitCode = ExitCode.DONE
    reason: str = "finished"  #: for a person
    lost_another: bool = False  #: all that is known is that another rank is gone

    @property
    def failed(self) -> bool:
        """Whether it neither finished nor stopped because it was asked to."""
        return self.code not in (ExitCode.DONE, ExitCode.INTERRUPTED)


def record_failure(run: RunDir, spec: TaskSpec, task: Task, outcome: Outcome) -> None:
    """Say why a rank other than the main one failed: that one waits for it, and may be killed before it finds out."""
    reason = f"rank {task.rank} on {task.node}: {outcome.reason}"
    for key in spec.keys:
        found = JobState.of_or_none(run, key)
        if found is not None and found.state == State.RUNNING and _is_of(found, task):
            replace(found, state=State.FAILED, code=int(outcome.code), reason=reason, time=_now()).save(run, key)


def _is_of(found: JobState, task: Task) -> bool:
    """Whether a state was left by this very start of the job."""
    return (found.job, found.restart) == (task.job_id, task.restart)


def _now() -> float:
    return round(time.time(), 3)


@dataclass(frozen=True)
class _Standing:
    """Where a job stands: its state and its history are both written from this."""

    state: State
    code: int | None
    reason: str
    signal: str | None
    mark: str
    time: float


class Attempt:
    """One start of one job of a run; the main rank keeps its records."""

    def __init__(self, run: RunDir, spec: TaskSpec, task: Task, site: Site) -> None:
        self.run, self.spec, self.task, self.site = run, spec, task, site
        self.keys = spec.keys
        self.open_keys = list(self.keys)
        self.began = time.time()
        self.began_with = self.mark()
        self.starts_without_progress = 1
        self.started = False

    def start(self, held: ExitStack) -> None:
        """Take the locks of the stage, to be let go with `held`, and record the start.

        Raises:
            RunLocked: if another living job holds one; nothing is recorded then.
            NoProgress: if the last starts of the same job left nothing new on disk.
        """
        for key in self.keys:
            held.enter_context(locked(self.run.lock(key), self.task, self.site))
        self.started = True
        self.began_with = self.mark()
        self.starts_without_progress = self._starts_without_progress()
        AttemptStarted(
            _now(), self.spec.stage, self.keys, self.task.job_id, self.task.restart, self.began_with,
            nodes=self.task.node_count, node=self.task.node, world=self.task.world,
        ).append(self.run.events)  # fmt: skip
        if self.starts_without_progress > MAX_STARTS_WITHOUT_PROGRESS:
            raise NoProgress(
                f"started {self.starts_without_progress - 1} times without getting any further ({self.began_with}): "
                f"not requeued any more. The logs in {self.run.jobs} say how each attempt ended; fix the cause and "
                f"submit it again."
            )
        for key in self.keys:
            self._save(key, _Standing(State.RUNNING, None, "", None, self.began_with, _now()))

    def _starts_without_progress(self) -> int:
        """Starts of this job in a row, this one included, that found nothing new on disk. Restarts that recorded
        nothing, because they died before they could, count too."""
        before = JobState.of_or_none(self.run, self.keys[0])
        if before is None or (before.job, before.mark) != (self.task.job_id, self.began_with):
            return 1
        return before.starts_without_progress + max(self.task.restart - before.restart, 1)

    def finish_item(self, item: Item) -> None:
        """Record that one of several datasets is done."""
        key = f"{self.spec.stage}-{item.name}"
        self.open_keys.remove(key)
        self._save(key, _Standing(State.DONE, ExitCode.DONE, "finished", None, self.mark(), _now()))

    def end(self, outcome: Outcome, signal: str | None) -> None:
        """Record the end: exit code, why, and the signal that came, if one did. Nothing was started where another job
        holds the lock. Where another rank is gone, the state stays as that of a job whose processes are killed: how
        that one ended decides whether the job is requeued. Where another one failed, and this one was told to stop for
        it, that one's record stays.
        """
        if not self.started:
            return
        state = _STATES.get(outcome.code, State.FAILED)
        end = _Standing(state, int(outcome.code), outcome.reason, signal, self.mark(), _now())
        for key in self.open_keys if not outcome.lost_another else ():
            if outcome.code != ExitCode.INTERRUPTED or self._failure(key) is None:
                self._save(key, end)
        AttemptEnded(
            end.time, self.spec.stage, self.keys, self.task.job_id, self.task.restart, int(outcome.code),
            end.reason, signal, end.mark, seconds=round(end.time - self.began, 3),
        ).append(self.run.events)  # fmt: skip

    def _save(self, key: str, now: _Standing) -> None:
        starts = self.starts_without_progress if now.mark == self.began_with else 0
        JobState(
            now.state, now.code, now.reason, now.signal, self.task.job_id, self.task.restart, now.mark, starts, now.time
        ).save(self.run, key)

    def failure_of_another(self) -> Outcome | None:
        """What a rank recorded that failed, by `record_failure`; it may still be on its way through the file system."""
        deadline = time.monotonic() + SECONDS_FOR_A_RECORD
        while time.monotonic() < deadline:
            for failure in filter(None, map(self._failure, self.open_keys)):
                return failure
            time.sleep(0.1)
        return None

    def _failure(self, key: str) -> Outcome | None:
        """What is recorded of this very start if it failed."""
        found = JobState.of_or_none(self.run, key)
        if found is not None and found.state == State.FAILED and found.code is not None and _is_of(found, self.task):
            return Outcome(ExitCode(found.code), found.reason)
        return None

    def mark(self) -> str:
        """What the stage has on disk, in short; it differs as soon as something new is there."""
        if self.spec.stage == "train":
            return next((path.name for path in checkpoint_folders(self.run.checkpoints)), "nothing")
        sizes = [path.stat().st_size for item in self.spec.items for path in self._files(item)]
        return f"{len(sizes)} files of {sum(sizes)} bytes"

    def _files(self, item: Item) -> Iterator[Path]:
        """What an item has on disk; other seeds of the same dataset are another job's."""
        probe = self.spec.stage == "probe"
        folder = self.run.probes(item.dataset) if probe else self.run.features(item.dataset, "test").parent
        for path in folder.rglob("*"):
            seed = re.search(r"seed_(\d+)", path.name)
            if path.is_file() and not (item.seeds and seed and int(seed[1]) not in item.seeds):
                yield path
