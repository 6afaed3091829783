"""`events.jsonl`: the history of a run, one event per line.

Rank 0 of each job writes the starts and ends of its attempts (jobs/worker/attempts.py), what they ran on
(trex/records/environment.py) and the events of the training (trex/training/trainer.py). `trex status` and the report
show them. They are history only: the next start of a job reads the job's state (trex/records/job_state.py) instead.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from trex.records.base import Count, Lines, Record, Time, read_lines_of
from trex.records.environment import Environment
from trex.records.stage import Stage
from trex.records.typed import Bounds
from trex.storage import unwritable
from trex.wording import duration

log = logging.getLogger(__name__)

SaveReason = Literal["timer", "epoch", "end", "stop"]
Seconds = Annotated[float, Bounds(-1e11, 1e11)]


@dataclass(frozen=True)
class AttemptStarted(Record):
    """A job started."""

    FORMAT: ClassVar[int] = 1
    KIND: ClassVar[str] = "attempt_started"

    time: Time
    stage: Stage
    keys: tuple[str, ...]  #: keys of the job's state files
    job: str
    restart: Count
    mark: str  #: short description of the stage's progress on disk
    nodes: Count
    node: str  #: node of rank 0
    world: Count  #: number of processes


@dataclass(frozen=True)
class AttemptEnded(Record):
    """A job ended. Keeps the values of the job's state, which the next start overwrites."""

    FORMAT: ClassVar[int] = 1
    KIND: ClassVar[str] = "attempt_ended"

    time: Time
    stage: Stage
    keys: tuple[str, ...]
    job: str
    restart: Count
    code: int  #: exit code
    reason: str
    signal: str | None
    mark: str  #: short description of the stage's progress on disk at the end
    seconds: Seconds


@dataclass(frozen=True)
class TrainingStarted(Record):
    """The training started with its first step."""

    FORMAT: ClassVar[int] = 1
    KIND: ClassVar[str] = "training_started"

    time: Time
    step: Count
    epoch: Count
    start: (
        dict[str, str] | None
    )  #: the file that `train.start` names; keys: file, sha256, with, and key_map, key_map_sha256


@dataclass(frozen=True)
class TrainingResumed(Record):
    """The training continued from a checkpoint."""

    FORMAT: ClassVar[int] = 1
    KIND: ClassVar[str] = "training_resumed"

    time: Time
    step: Count
    epoch: Count
    start: dict[str, str] | None


@dataclass(frozen=True)
class CheckpointSaved(Record):
    """A checkpoint was written to disk."""

    FORMAT: ClassVar[int] = 1
    KIND: ClassVar[str] = "checkpoint"

    time: Time
    step: Count
    reason: SaveReason
    seconds: Seconds  #: duration of the writing, for most of which the training does not wait
    seconds_signal_to_saved: Seconds | None  #: from the stop signal until it was saved; None without a signal


@dataclass(frozen=True)
class IntervalChosen(Record):
    """`checkpoint.every_minutes: auto` chose the time between two saves."""

    FORMAT: ClassVar[int] = 1
    KIND: ClassVar[str] = "interval"

    time: Time
    step: Count
    seconds: Seconds  #: between two saves
    save_seconds: Seconds  #: how long a save makes the training wait
    failure_hours: Seconds  #: expected mean time between failures, hours
    failures: Count  #: that the run has seen
    hours: Seconds  #: hours of training in which it has seen them

    @property
    def text(self) -> str:
        """What was chosen, and why."""
        return (
            f"saves every {duration(self.seconds)}: a save costs {self.save_seconds:.3g} s, a failure every "
            f"{duration(3600 * self.failure_hours)} is expected ({self.failures} seen in {duration(3600 * self.hours)})"
        )


Event = (
    AttemptStarted | Environment | AttemptEnded | TrainingStarted | TrainingResumed | CheckpointSaved | IntervalChosen
)
_KINDS: tuple[type[Event], ...] = (
    AttemptStarted, AttemptEnded, Environment, TrainingStarted, TrainingResumed, CheckpointSaved, IntervalChosen,
)  # fmt: skip


def record(event: Event, path: Path) -> None:
    """Append an event to the history. Nothing depends on it, so an event that cannot be written goes to the log.

    Raises:
        Unwritable: if the run folder is gone.
    """
    try:
        event.append(path)
    except OSError as error:
        log.warning("%s The history of the run lacks this event: %s", unwritable(error, path), event.to_line().rstrip())


def read_events(path: Path) -> Lines[Event]:
    """Read the events of a run, oldest first, and the damaged lines. Both are empty if the file does not exist."""
    return read_lines_of(path, *_KINDS)
