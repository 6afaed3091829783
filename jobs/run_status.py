"""Where runs stand: from their own files, one call of squeue and one of sacct, whatever their number."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from jobs import environment, programs
from jobs.plan.spec import STAGES, Stage
from jobs.plan.stages import is_there, is_trained, items
from jobs.slurm import queue
from jobs.slurm.submit import jobs_of
from trex.config import Config
from trex.errors import ExitCode, TrexError
from trex.records.base import RecordError
from trex.records.events import AttemptEnded, AttemptStarted, read_events
from trex.records.job_state import JobState, State
from trex.records.manifest import newest_manifest
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.records.submission import Submission

Standing = Literal["done", "running", "waiting", "failed", "gone", "open", "stale"]
#: Which state of its parts a stage shows, the most pressing first.
_PRESSING: tuple[Standing, ...] = ("failed", "gone", "running", "waiting", "open", "stale", "done")


@dataclass(frozen=True)
class Accounted:
    """What accounting says of one start of a job."""

    job_id: str
    state: str  #: COMPLETED, REQUEUED, NODE_FAIL, …
    seconds: int


@dataclass(frozen=True)
class Slurm:
    """Slurm's answers; empty where it does not answer."""

    jobs: dict[tuple[str, str], queue.QueuedJob]  #: by job id and comment
    records: dict[str, list[Accounted]]  #: starts of each job, oldest first
    answers: bool  #: False: nothing can be said about what is not in the queue
    accounting: bool


@dataclass(frozen=True)
class JobStatus:
    """One job of a stage, or one element of its array."""

    key: str
    state: Standing
    job: str | None
    why: str  #: why it waits, failed or is gone


@dataclass
class StageStatus:
    """A stage with all its parts, of which there is at least one."""

    stage: str
    parts: list[JobStatus]

    @property
    def state(self) -> Standing:
        """The most pressing state of its parts."""
        return next(state for state in _PRESSING if any(part.state == state for part in self.parts))

    @property
    def done(self) -> int:
        """How many parts are done."""
        return sum(part.state == "done" for part in self.parts)

    @property
    def why(self) -> str:
        """The first reason among the parts in that state."""
        return next((part.why for part in self.parts if part.state == self.state and part.why), "")


@dataclass
class RunStatus:
    """A run."""

    name: str
    path: str
    stages: list[StageStatus] = field(default_factory=list)
    epoch: float | None = None
    epochs: int = 0
    step: int | None = None
    steps: int | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    restarts: int = 0
    stops: list[str] = field(default_factory=list)  #: why each start but the current one ended
    allocated_seconds: float = 0.0
    kept_seconds: float = 0.0
    damaged: list[str] = field(default_factory=list)  #: records that cannot be read, and are left out

    @property
    def goodput(self) -> float | None:
        """Share of the training's allocated time that became steps which were kept."""
        return min(self.kept_seconds / self.allocated_seconds, 1.0) if self.allocated_seconds else None

    @property
    def advice(self) -> str:
        """The command that continues the run, where it does not go on by itself."""
        stuck = any(stage.state in ("failed", "gone") for stage in self.stages)
        return f"trex retry {self.name}" if stuck else ""


def ask_slurm(runs: Sequence[RunDir]) -> Slurm:
    """One squeue and one sacct for all the jobs of `runs`; none of them if nothing was submitted."""
    places = [place for run in runs for _, place in jobs_of(Submission.of(run).records)]
    if not places:
        return Slurm({}, {}, answers=True, accounting=False)
    try:
        jobs = {(job.job_id, job.comment): job for job in queue.queued_jobs()}
    except TrexError:
        return Slurm({}, {}, answers=False, accounting=False)
    ids = ",".join(sorted({job_id.partition("_")[0] for job_id, _ in places}))
    words = ["sacct", "--duplicates", "--allocations", "--noheader", "--parsable2", f"--jobs={ids}"]
    whole = {**environment.outside_allocation(), "SLURM_BITSTR_LEN": "0"}  # else long lists of elements end in dots
    answer = programs.run([*words, "--format=JobID,State,ElapsedRaw"], timeout=60, env=whole)
    records: dict[str, list[Accounted]] = {}
    for line in answer.stdout.splitlines() if answer.ok else []:
        job_id, state, seconds = line.split("|")[:3]
        for one in queue.elements(job_id):
            records.setdefault(one, []).append(Accounted(one, state.split()[0], int(seconds or 0)))
    return Slurm(jobs, records, answers=True, accounting=answer.ok)


def status_of(run: RunDir, config: Config, slurm: Slurm) -> RunStatus:
    """Put together what is known of one run."""
    status = RunStatus(run.name, str(run.root), epochs=config.train.epochs)
    submissions = Submission.of(run)
    status.damaged += map(str, submissions.damaged)
    places = jobs_of(submissions.records)
    queued = {key: place for key, place in places if place in slurm.jobs}
    submitted = dict(places) | queued  # the newest of each key; what is in the queue comes first
    for stage in STAGES:
        if stage == "train" and config.extract.weights != "trained" and "train" not in submitted:
            continue
        finished = _finished(run, config, stage)
        parts = [
            _part(run, key, is_finished, submitted, _recorded(run, key, status), slurm)
            for key, is_finished in finished.items()
        ]
        if parts:  # without datasets there is nothing to extract and to probe
            status.stages.append(StageStatus(stage, parts))
    _read_progress(run, config, status)
    _read_attempts(run, status, slurm)
    return status


def _finished(run: RunDir, config: Config, stage: Stage) -> dict[str, bool]:
    """Whether each part of a stage is done, by the key of its state file."""
    if stage == "train":
        return {stage: is_trained(run)}
    if stage == "report":
        return {stage: is_reported(run)}
    return {f"{stage}-{item.name}": is_there(run, config, stage, item) for item in items(stage, config)}


def is_reported(run: RunDir) -> bool:
    """Whether there is a report that is no older than the results and the training's metrics."""
    page = run.report_page
    if not page.exists():
        return False
    sources = [run.metrics, *run.probe_results()]
    return all(path.stat().st_mtime_ns <= page.stat().st_mtime_ns for path in sources if path.exists())


def _recorded(run: RunDir, key: str, status: RunStatus) -> JobState | None:
    try:
        return JobState.of(run, key)
    except RecordError as error:
        status.damaged.append(str(error))
        return None


def _part(
    run: RunDir, key: str, finished: bool, submitted: dict[str, tuple[str, str]], recorded: JobState | None,
    slurm: Slurm,
) -> JobStatus:  # fmt: skip
    """One part's state: what is on disk counts first, then the queue, then what its last start left."""
    place = submitted.get(key)
    queued = slurm.jobs.get(place) if place else None
    if queued is not None and not (finished and queued.state == "PENDING"):
        if queued.state == "PENDING":
            return JobStatus(key, "waiting", queued.job_id, queued.reason)
        return JobStatus(key, "running", queued.job_id, f"on {queued.nodes} for {queued.elapsed}, {queued.left} left")
    if finished:
        return JobStatus(key, "done", place[0] if place else None, "")
    if key == "report" and run.report_page.exists() and (recorded is None or recorded.state == State.DONE):
        return JobStatus(key, "stale", None, f"older than the results: trex report {run.name} renews it")
    if recorded is not None and (place is None or _is_newer(recorded.job, place[0])):
        return _local_part(run, key, recorded)
    if place is None:
        return JobStatus(key, "open", None, "")
    return _vanished(key, place[0], recorded, slurm)


def _is_newer(job: str, submitted: str) -> bool:
    """Whether a state was left by a job of this machine after the last submission."""
    return job != submitted and not job.startswith(submitted.partition("_")[0])


def _local_part(run: RunDir, key: str, recorded: JobState) -> JobStatus:
    if recorded.state == State.RUNNING:
        if run.lock(key).exists():
            return JobStatus(key, "running", recorded.job, "on this machine")
        return JobStatus(key, "gone", recorded.job, "died")
    return JobStatus(key, "failed" if recorded.state == State.FAILED else "gone", recorded.job, recorded.reason)


def _vanished(key: str, job: str, recorded: JobState | None, slurm: Slurm) -> JobStatus:
    """A submitted job that is no longer in the queue, and did not finish."""
    if not slurm.answers:
        return JobStatus(key, "waiting", job, "Slurm does not answer: not known whether it is in the queue")
    records = slurm.records.get(job) or slurm.records.get(job.partition("_")[0], [])
    ending = f"ended as {records[-1].state}" if records else "is no longer in the queue"
    if recorded is None or recorded.job != job:
        return JobStatus(key, "gone", job, f"{ending} before it began")
    if recorded.state == State.FAILED:
        return JobStatus(key, "failed", job, recorded.reason)
    if recorded.state == State.WANTS_REQUEUE:
        return JobStatus(key, "gone", job, f"{ending}; {recorded.reason}")
    return JobStatus(key, "gone", job, ending)


@dataclass
class _Attempt:
    """One start of the training."""

    start: AttemptStarted
    end: AttemptEnded | None = None
    accounted: Accounted | None = None


def _read_progress(run: RunDir, config: Config, status: RunStatus) -> None:
    """Epoch, step and speed from the metrics, which hold kept steps only."""
    metrics = MetricsLine.read_lines(run.metrics)
    status.damaged += map(str, metrics.damaged)
    lines = [line for line in metrics.records if line.phase == "train"]
    before = 0
    for line in lines:
        status.kept_seconds += _seconds(line.step - before, config, _speed(line)) or 0.0
        before = line.step
    if lines:
        last = lines[-1]
        status.step, status.epoch, status.images_per_second = last.step, last.epoch, _speed(last)
        per_epoch = _ratio(last.step, last.epoch)
        status.steps = None if per_epoch is None else round(per_epoch) * config.train.epochs
    newest = newest_manifest(run.checkpoints)
    if newest is not None:
        status.step = max(newest[1].step, status.step or 0)
    if status.steps and status.step is not None:
        seconds = _seconds(status.steps - status.step, config, status.images_per_second)
        status.seconds_left = None if seconds is None else max(seconds, 0.0)


def _speed(line: MetricsLine) -> float | None:
    """Images per second, where they were measured."""
    return line.values.get("images_per_second") or None


def _seconds(steps: int, config: Config, images_per_second: float | None) -> float | None:
    """What so many steps take, or took."""
    return _ratio(steps * config.train.batch_size, images_per_second or 0.0)


def _ratio(value: float, by: float) -> float | None:
    """`value` / `by`; None where that is no number that could be shown, by 0 or by a damaged line's value."""
    ratio = value / by if by else math.inf
    return ratio if abs(ratio) < 1e15 else None


def _read_attempts(run: RunDir, status: RunStatus, slurm: Slurm) -> None:
    """Restarts of the training, why each start ended, and the time that all of them held."""
    events = read_events(run.events)
    status.damaged += map(str, events.damaged)
    attempts: list[_Attempt] = []
    for event in events.records:
        if isinstance(event, AttemptStarted) and event.stage == "train":
            attempts.append(_Attempt(event, accounted=_accounted(event, slurm)))
        elif isinstance(event, AttemptEnded) and event.stage == "train" and attempts:
            attempts[-1].end = event
    status.restarts = max(len(attempts) - 1, 0)
    status.stops += map(_why, attempts[:-1])
    running = any(stage.stage == "train" and stage.state == "running" for stage in status.stages)
    status.allocated_seconds = sum(_held(one, running and one is attempts[-1]) for one in attempts)


def _accounted(start: AttemptStarted, slurm: Slurm) -> Accounted | None:
    records = slurm.records.get(start.job, [])
    return records[start.restart] if start.restart < len(records) else None


def _why(attempt: _Attempt) -> str:
    end = attempt.end
    signals = {"SIGTERM": "preempted or cancelled", "SIGUSR2": "time limit or preemption", "SIGINT": "Ctrl-C"}
    if end is None:
        return f"died ({attempt.accounted.state})" if attempt.accounted is not None else "ended without a record"
    if end.code == ExitCode.INTERRUPTED:
        return f"{signals.get(end.signal or '', 'told to stop')}, {end.reason.partition(';')[0]}"
    return end.reason


def _held(attempt: _Attempt, runs: bool) -> float:
    """Seconds of an attempt's allocation: as accounting says, else as its own records do."""
    if attempt.accounted is not None:
        return float(attempt.accounted.seconds)
    if attempt.end is not None:
        return attempt.end.seconds
    return time.time() - attempt.start.time if runs else 0.0
