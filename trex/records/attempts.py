"""The starts of a run's jobs, put together from its history and from accounting, and what they used.

`trex status` (jobs/run_status.py) and the report (trex/reporting/stages.py) show the result.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from trex.errors import ExitCode
from trex.records.environment import Environment
from trex.records.events import (
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    Event,
    TrainingResumed,
    TrainingStarted,
)
from trex.records.stage import STAGES, Stage
from trex.records.submission import Submission

#: The exit codes after which nothing is lost: finished, or stopped and saved.
_CLEAN = (ExitCode.DONE, ExitCode.INTERRUPTED)


@dataclass(frozen=True)
class Start:
    """What accounting recorded about one start of a job."""

    ending: str  #: how it ended, as the back end calls it, such as COMPLETED
    seconds: float  #: how long its nodes were allocated
    cpus: int | None = None  #: CPUs that were allocated; None if accounting does not say, like the next two
    gpus: int | None = None
    joules: int | None = None  #: energy that its nodes took


@dataclass
class Attempt:
    """One start of a job, as far as it recorded itself."""

    start: AttemptStarted
    environment: Environment | None = None
    began: TrainingStarted | TrainingResumed | None = None  #: of a training; None: it ended before the first step
    saves: list[CheckpointSaved] = field(default_factory=list)
    end: AttemptEnded | None = None
    accounted: Start | None = None

    @property
    def failed(self) -> bool:
        """Whether it is a training that ended without a clean stop, so that the steps since its last save are lost.

        An attempt that still runs counts too: leave out the last one of a running training.
        """
        return self.began is not None and (self.end is None or self.end.code not in _CLEAN)

    @property
    def hours(self) -> float:
        """Hours until its end or, if that was not recorded, until the last event that was."""
        last = self.end or (self.saves[-1] if self.saves else self.began) or self.start
        return max(last.time - self.start.time, 0.0) / 3600


@dataclass(frozen=True)
class Usage:
    """What the starts of a stage's jobs used together."""

    seconds: float = 0.0  #: sum of the times for which their nodes were allocated
    gpu_seconds: float = 0.0
    core_seconds: float = 0.0  #: of CPUs as the back end counts them, which can be hardware threads
    joules: int = 0  #: 0 if it was not measured

    def words(self) -> str:
        """Return it for people, `12 GPU-hours, 96 core-hours, 4.1 kWh`, without what is 0."""
        amounts = ((self.gpu_seconds, "GPU-hours"), (self.core_seconds, "core-hours"), (self.joules / 1000, "kWh"))
        return ", ".join(f"{hours(amount)} {unit}" for amount, unit in amounts if amount)


def hours(seconds: float) -> str:
    """Return a number of seconds in hours (or of kilojoules in kilowatt hours), with three digits: `0.0123`, `1234`."""
    value = seconds / 3600
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def attempts(events: Iterable[Event], starts: Mapping[str, Sequence[Start]] | None = None) -> list[Attempt]:
    """Return the attempts that a run's history has, oldest first.

    Args:
        events: the history.
        starts: what accounting recorded about the starts of each job, oldest first.
    """
    found: list[Attempt] = []
    newest: dict[tuple[tuple[str, ...], str, int], Attempt] = {}
    for event in events:
        if isinstance(event, AttemptStarted):
            accounted = (starts or {}).get(event.job, ())
            attempt = Attempt(event, accounted=accounted[event.restart] if event.restart < len(accounted) else None)
            newest[event.keys, event.job, event.restart] = attempt
            found.append(attempt)
        elif isinstance(event, TrainingStarted | TrainingResumed | CheckpointSaved):
            training = next((one for one in reversed(found) if one.start.stage == "train"), None)
            if training is not None and isinstance(event, CheckpointSaved):
                training.saves.append(event)
            elif training is not None and not isinstance(event, CheckpointSaved):
                training.began = event
        elif isinstance(event, Environment | AttemptEnded):
            known = newest.get((event.keys, event.job, event.restart))
            if known is not None and isinstance(event, Environment):
                known.environment = event
            elif known is not None and isinstance(event, AttemptEnded):
                known.end = event
    return found


def training_attempts(events: Iterable[Event]) -> list[Attempt]:
    """Return the starts of the training, oldest first."""
    return [one for one in attempts(events) if one.start.stage == "train"]


def usage(
    made: Iterable[Attempt],
    submissions: Iterable[Submission] = (),
    starts: Mapping[str, Sequence[Start]] | None = None,
    running: Collection[str] = (),
) -> dict[Stage, Usage]:
    """Return what each stage used, over all starts of its jobs, in the order of the stages.

    A job that accounting knows counts with all its starts there, also with those that died before they recorded
    anything. Any other job counts with the attempts that recorded their end, and with one that runs. The number of GPUs
    and CPUs is accounting's, or else that of the attempts' own records.

    Args:
        made: the attempts of the run.
        submissions: the jobs that were submitted for it.
        starts: what accounting recorded about the starts of each job, oldest first.
        running: the jobs that run now.
    """
    stages: dict[str, Stage] = {job: one.stage for one in submissions for job in one.jobs.values()}
    recorded: dict[str, list[Attempt]] = {}
    for attempt in made:
        stages.setdefault(attempt.start.job, attempt.start.stage)
        recorded.setdefault(attempt.start.job, []).append(attempt)
    found: dict[Stage, Usage] = {}
    for job, stage in stages.items():
        mine = {attempt.start.restart: attempt for attempt in recorded.get(job, [])}
        accounted = list(enumerate((starts or {}).get(job, ())))
        for restart, start in accounted or _own_records(mine, job in running):
            found[stage] = _sum(found.get(stage, Usage()), start, _machines(mine, restart))
    return {stage: found[stage] for stage in STAGES if stage in found}


def _own_records(mine: Mapping[int, Attempt], runs: bool) -> Iterator[tuple[int, Start]]:
    """Yield what the attempts of a job say about themselves, by restart. `runs`: the last one has not ended."""
    for restart, attempt in mine.items():
        seconds = attempt.end.seconds if attempt.end is not None else 0.0
        if attempt.end is None and runs and restart == max(mine):
            seconds = time.time() - attempt.start.time
        yield restart, Start("", max(seconds, 0.0))


def _machines(mine: Mapping[int, Attempt], restart: int) -> Environment | None:
    """Return what a start of a job ran on or, if it did not record that, what the newest start that did ran on."""
    known = {number: one.environment for number, one in mine.items() if one.environment is not None}
    return known.get(restart) or (known[max(known)] if known else None)


def _sum(before: Usage, start: Start, machines: Environment | None) -> Usage:
    """Add a start of a job. What accounting does not count is taken from the attempt's record."""
    gpus = start.gpus if start.gpus is not None or machines is None else machines.gpus
    cpus = start.cpus if start.cpus is not None or machines is None else machines.cpus
    return Usage(
        before.seconds + start.seconds,
        before.gpu_seconds + start.seconds * (gpus or 0),
        before.core_seconds + start.seconds * (cpus or 0),
        before.joules + (start.joules or 0),
    )
