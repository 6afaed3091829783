"""The status of runs, from their own files and from the queues."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from jobs.backend import Answers, QueuedJob
from jobs.plan.milestones import at_milestones, epochs, is_evaluated, probes_at
from jobs.plan.runs import word_for
from jobs.plan.spec import STAGES, Item, Stage
from jobs.plan.stages import damaged_results, is_complete, is_reported, is_trained, items
from jobs.worker.lock import lock_numbers
from trex.config import Config
from trex.errors import ExitCode
from trex.records.attempts import Attempt, Start, Usage, attempts, usage
from trex.records.base import RecordError
from trex.records.environment import values_of
from trex.records.events import IntervalChosen, read_events
from trex.records.job_state import JobState, State
from trex.records.manifest import newest_manifest
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir, dataset_folder
from trex.records.submission import Submission

#: The state of a job or stage as `trex status` shows it.
ShownState = Literal[
    "done", "running", "preempted", "suspended", "ending", "waiting", "on hold", "never starts", "failed", "gone",
    "open", "stale",
]  # fmt: skip
#: The name of the line about the milestones among the stages.
MILESTONES = "milestones"
#: A stage shows the first of these states that one of its parts has.
_MOST_URGENT_FIRST: tuple[ShownState, ...] = (
    "failed", "gone", "never starts", "on hold", "suspended", "preempted", "running", "ending", "waiting", "open",
    "stale", "done",
)  # fmt: skip


#: States that do not end by themselves.
_STUCK: tuple[ShownState, ...] = ("failed", "gone", "never starts", "on hold")


@dataclass(frozen=True)
class JobStatus:
    """One job of a stage, or one element of its array."""

    key: str
    state: ShownState
    job: str | None
    why: str  #: why it waits, failed or is gone


@dataclass
class StageStatus:
    """A stage with its parts, at least one."""

    stage: str
    parts: list[JobStatus]

    @property
    def state(self) -> ShownState:
        """The most urgent state of its parts."""
        states = {part.state for part in self.parts}
        return next(state for state in _MOST_URGENT_FIRST if state in states)

    @property
    def done(self) -> int:
        """How many parts are done."""
        return sum(part.state == "done" for part in self.parts)

    @property
    def why(self) -> str:
        """The first reason among the parts in the stage's state."""
        return next((part.why for part in self.parts if part.state == self.state and part.why), "")

    @property
    def stuck(self) -> list[JobStatus]:
        """The parts that do not go on by themselves."""
        return [part for part in self.parts if part.state in _STUCK]


@dataclass
class RunStatus:
    """The status of a run."""

    name: str
    path: str
    word: str  #: what means the run in a command that is typed here
    stages: list[StageStatus] = field(default_factory=list)
    epoch: float | None = None
    epochs: int = 0
    step: int | None = None
    steps: int | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    restarts: int = 0
    stops: list[str] = field(default_factory=list)  #: why each start ended, except for the newest one
    changes: list[str] = field(default_factory=list)  #: how the machines and versions of its training's starts differ
    usage: dict[Stage, Usage] = field(default_factory=dict)  #: what each stage that started used, over all starts
    kept_seconds: float = 0.0  #: time that the training's steps took, without those that were lost and done again
    saves: str = ""  #: how often the training saves, and why; empty if the config says it
    damaged: list[str] = field(default_factory=list)  #: messages about records that cannot be read and were skipped

    @property
    def allocated_seconds(self) -> float:
        """For how long the nodes of the training were allocated, over all starts."""
        return self.usage.get("train", Usage()).seconds

    @property
    def goodput(self) -> float | None:
        """The share of the training's allocated time that was spent on steps that were kept (docs/slurm.md)."""
        return min(self.kept_seconds / self.allocated_seconds, 1.0) if self.allocated_seconds else None

    @property
    def advice(self) -> str:
        """The command that continues the run; empty if the run continues on its own."""
        ended = any(part.state in ("failed", "gone") for stage in self.stages for part in stage.stuck)
        return f"trex retry {self.word}" if ended else ""


def status_of(run: RunDir, config: Config, answers: Answers) -> RunStatus:
    """Collect the status of one run."""
    status = RunStatus(run.name, str(run.root), word_for(run), epochs=config.train.epochs)
    jobs = _jobs(run, answers, status)
    for stage in STAGES:
        if stage == "train" and config.extract.weights != "trained" and "train" not in jobs.newest:
            continue
        finished = _finished(run, config, stage, status)
        parts = [
            _part(run, key, is_finished, jobs, _recorded(run, key, jobs, status))
            for key, is_finished in finished.items()
        ]
        if parts:  # without datasets, nothing is extracted or probed
            status.stages.append(StageStatus(stage, parts))
    if parts := _milestones(run, config, jobs, status):
        status.stages.append(StageStatus(MILESTONES, parts))
    _read_progress(run, config, status)
    _read_attempts(run, config, status, jobs)
    return status


def _milestones(run: RunDir, config: Config, jobs: _Jobs, status: RunStatus) -> list[JobStatus]:
    """Return the state of each milestone on disk: the most urgent one of its probes that are not done.

    While its features are missing, the extraction's state counts.
    """
    parts, wanted = [], at_milestones(config)
    for epoch in epochs(run, config):
        found = []
        at = run.at(epoch)
        for item in probes_at(config, epoch):
            finished = is_evaluated(at, wanted, item)
            if not finished:
                status.damaged += _damaged_results(at, wanted, [item], status)
            keys = [f"probe-{item.name}"]
            if not finished and not is_complete(at, wanted, "extract", item):
                keys.insert(0, f"extract-{replace(item, seeds=()).name}")
            found += [_part(run, key, finished, jobs, _recorded(run, key, jobs, status)) for key in keys]
        worst = StageStatus(MILESTONES, found)
        job = next((part.job for part in found if part.state == worst.state), None)
        why = f"trex retry {status.word}" if worst.state == "open" else worst.why
        parts.append(JobStatus(f"epoch {epoch}", worst.state, job, why))
    return parts


@dataclass(frozen=True)
class _Jobs:
    """The jobs of a run."""

    newest: Mapping[str, str]  #: the newest job id of each key; a job in the queue is preferred
    queued: Mapping[str, QueuedJob]  #: the newest job of each key that is in the queue
    submissions: Sequence[Submission]
    submitted: frozenset[str]  #: ids of all jobs that were submitted
    recorded: frozenset[str]  #: keys that have a state file
    starts: Mapping[str, Sequence[Start]]  #: what accounting says about them, by job id
    silent: tuple[str, ...]  #: titles of the queues that did not answer


def _jobs(run: RunDir, answers: Answers, status: RunStatus) -> _Jobs:
    submissions = Submission.of(run)
    status.damaged += map(str, submissions.damaged)
    submitted = [pair for one in submissions.records for pair in one.jobs.items()]
    queued = {job.key: job for job in answers.queued.get(run.root, ())}
    newest = dict(submitted) | {key: job.job for key, job in queued.items()}
    return _Jobs(
        newest, queued, submissions.records, frozenset(job for _, job in submitted), run.recorded_keys(),
        answers.starts.get(run.root, {}), answers.silent,
    )  # fmt: skip


def _finished(run: RunDir, config: Config, stage: Stage, status: RunStatus) -> dict[str, bool]:
    """Return whether each part of a stage is done, by the key of its state file. Names damaged results in `status`."""
    if stage == "train":
        return {stage: is_trained(run)}
    if stage == "report":
        return {stage: is_reported(run)}
    begun = run.datasets("features" if stage == "extract" else "probes")  # to look for each file takes long
    found = {
        item: dataset_folder(item.dataset) in begun and is_complete(run, config, stage, item)
        for item in items(stage, config)
    }
    if stage == "probe" and begun:
        open_items = [item for item, is_finished in found.items() if not is_finished]
        status.damaged += _damaged_results(run, config, open_items, status)
    return {f"{stage}-{item.name}": is_finished for item, is_finished in found.items()}


def _damaged_results(run: RunDir, config: Config, open_items: Sequence[Item], status: RunStatus) -> list[str]:
    """Return a message for each result of probes that are not done that cannot be read."""
    paths = [path for item in open_items for path in damaged_results(run, config, item)]
    return [
        f"{path}: damaged, of another version, or without predictions; trex retry {status.word} computes it again"
        for path in paths
    ]


def _recorded(run: RunDir, key: str, jobs: _Jobs, status: RunStatus) -> JobState | None:
    if key not in jobs.recorded:
        return None
    try:
        return JobState.of(run, key)
    except RecordError as error:
        status.damaged.append(str(error))
        return None


def _part(run: RunDir, key: str, finished: bool, jobs: _Jobs, recorded: JobState | None) -> JobStatus:
    """Return the state of one part: from the queue, the files on disk and the record of its last start."""
    job, queued = jobs.newest.get(key), jobs.queued.get(key)
    if queued is not None and (queued.state.has_started or not finished):
        return JobStatus(key, queued.state.value, queued.job, queued.about)
    if finished:
        return JobStatus(key, "done", job, "")
    if key == "report" and run.report_page.exists() and (recorded is None or recorded.state == State.DONE):
        return JobStatus(key, "stale", None, f"older than the results: trex report {word_for(run)} updates it")
    if recorded is not None and recorded.job not in jobs.submitted:
        return _local_part(run, key, recorded)
    if job is None:
        return JobStatus(key, "open", None, "")
    return _vanished(key, job, recorded, jobs)


def _local_part(run: RunDir, key: str, recorded: JobState) -> JobStatus:
    if recorded.state == State.RUNNING:
        if lock_numbers(run.lock(key)):
            return JobStatus(key, "running", recorded.job, "on this machine")
        return JobStatus(key, "gone", recorded.job, "ended without a record")
    return JobStatus(key, "failed" if recorded.state == State.FAILED else "gone", recorded.job, recorded.reason)


def _vanished(key: str, job: str, recorded: JobState | None, jobs: _Jobs) -> JobStatus:
    """Return the state of a submitted job that is no longer in the queue and did not finish."""
    if jobs.silent:
        titles = " and ".join(jobs.silent)
        return JobStatus(key, "waiting", job, f"{titles} does not answer: it may or may not be in the queue")
    starts = jobs.starts.get(job)
    ending = f"ended as {starts[-1].ending}" if starts else "is no longer in the queue"
    if recorded is None or recorded.job != job:
        return JobStatus(key, "gone", job, f"{ending} before it started")
    if recorded.state == State.FAILED:
        return JobStatus(key, "failed", job, recorded.reason)
    if recorded.state == State.WANTS_REQUEUE:
        return JobStatus(key, "gone", job, f"{ending}; {recorded.reason}")
    return JobStatus(key, "gone", job, ending)


def _read_progress(run: RunDir, config: Config, status: RunStatus) -> None:
    """Read epoch, step and speed from the metrics, which hold only the steps that were kept."""
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
    """Return the images per second, or None if they were not measured."""
    return line.values.get("images_per_second") or None


def _seconds(steps: int, config: Config, images_per_second: float | None) -> float | None:
    """Return how many seconds `steps` steps take at that speed, or None if it is not known."""
    return _ratio(steps * config.train.batch_size, images_per_second or 0.0)


def _ratio(value: float, by: float) -> float | None:
    """Return `value` / `by`, or None if the result is not a reasonable number (`by` is 0, or a line is damaged)."""
    ratio = value / by if by else math.inf
    return ratio if abs(ratio) < 1e15 else None


def _read_attempts(run: RunDir, config: Config, status: RunStatus, jobs: _Jobs) -> None:
    """Read the restarts of the training, why each start ended, how often it saves, and what all starts used."""
    events = read_events(run.events)
    status.damaged += map(str, events.damaged)
    if config.checkpoint.every_minutes == "auto":
        status.saves = next((one.text for one in reversed(events.records) if isinstance(one, IntervalChosen)), "")
    active = ("running", "preempted", "suspended", "ending")
    made = attempts(events.records, jobs.starts)
    running = {part.job for stage in status.stages for part in stage.parts if part.state in active and part.job}
    status.usage = usage(made, jobs.submissions, jobs.starts, running)
    trainings = [attempt for attempt in made if attempt.start.stage == "train"]
    status.restarts = max(len(trainings) - 1, 0)
    status.stops += map(_why, trainings[:-1])
    machines = values_of(attempt.environment for attempt in trainings if attempt.environment is not None)
    status.changes += [f"{name} {' → '.join(values)}" for name, values in machines.items() if len(values) > 1]


def _why(attempt: Attempt) -> str:
    end = attempt.end
    signals = {"SIGTERM": "preempted or cancelled", "SIGUSR2": "time limit or preemption", "SIGINT": "Ctrl-C"}
    if end is None:
        return "ended without a record" + (f" ({attempt.accounted.ending})" if attempt.accounted is not None else "")
    if end.code == ExitCode.INTERRUPTED:
        return f"{signals.get(end.signal or '', 'asked to stop')}, {end.reason.partition(';')[0]}"
    return end.reason
