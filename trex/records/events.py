"""`events.jsonl`: what happened to a run, one event per line.

Rank 0 of each job writes the starts and ends of its attempts (jobs/worker/attempts.py) and the training's events
(trex/training/trainer.py). `trex status` and the report read them. Nothing is decided by them: what the next start of a
job must know is in its state (trex/records/job_state.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from trex.records.base import Count, Lines, Record, Time, read_lines_of
from trex.records.stage import Stage
from trex.records.typed import Bounds

SaveReason = Literal["timer", "epoch", "end", "stop"]
Seconds = Annotated[float, Bounds(-1e11, 1e11)]


@dataclass(frozen=True)
class AttemptStarted(Record):
    """A start of a job."""

    FORMAT: ClassVar[int] = 1
    KIND: ClassVar[str] = "attempt_started"

    time: Time
    stage: Stage
    keys: tuple[str, ...]  #: of its state files
    job: str
    restart: Count
    mark: str  #: what the stage had on disk, in short
    nodes: Count
    node: str  #: of rank 0
    world: Count  #: processes


@dataclass(frozen=True)
class AttemptEnded(Record):
    """The end of a start: the values of the job's state, kept when the next start overwrites that."""

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
    mark: str  #: what the stage has on disk now
    seconds: Seconds


@dataclass(frozen=True)
class TrainingStarted(Record):
    """The training begins with its first step."""

    FORMAT: ClassVar[int] = 1
    KIND: ClassVar[str] = "training_started"

    time: Time
    step: Count
    epoch: Count
    start: dict[str, str] | None  #: the file that `train.start` named: file, sha256, with


@dataclass(frozen=True)
class TrainingResumed(Record):
    """The training continues from a checkpoint."""

    FORMAT: ClassVar[int] = 1
    KIND: ClassVar[str] = "training_resumed"

    time: Time
    step: Count
    epoch: Count
    start: dict[str, str] | None


@dataclass(frozen=True)
class CheckpointSaved(Record):
    """A checkpoint is on disk."""

    FORMAT: ClassVar[int] = 1
    KIND: ClassVar[str] = "checkpoint"

    time: Time
    step: Count
    reason: SaveReason
    seconds: Seconds  #: that writing it took
    seconds_signal_to_saved: Seconds | None  #: from the stop signal, if one was the reason


Event = AttemptStarted | AttemptEnded | TrainingStarted | TrainingResumed | CheckpointSaved
_KINDS: tuple[type[Event], ...] = (AttemptStarted, AttemptEnded, TrainingStarted, TrainingResumed, CheckpointSaved)


def read_events(path: Path) -> Lines[Event]:
    """The events of a run, oldest first, and the damaged lines; none of both if there is no such file."""
    return read_lines_of(path, *_KINDS)
