"""The starts of a training, put together from its events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from trex.errors import ExitCode
from trex.records.events import (
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    Event,
    TrainingResumed,
    TrainingStarted,
)

#: The exit codes after which nothing is lost: finished, or stopped and saved.
_CLEAN = (ExitCode.DONE, ExitCode.INTERRUPTED)


@dataclass
class TrainingAttempt:
    """One start of the training."""

    start: AttemptStarted
    began: TrainingStarted | TrainingResumed | None = None  #: None: it ended before the first step
    saves: list[CheckpointSaved] = field(default_factory=list)
    end: AttemptEnded | None = None

    @property
    def failed(self) -> bool:
        """Whether it ended without a clean stop, so that the steps since its last save are lost.

        An attempt that still runs counts too: leave out the last one of a running training.
        """
        return self.began is not None and (self.end is None or self.end.code not in _CLEAN)

    @property
    def hours(self) -> float:
        """Hours until its end or, if that was not recorded, until the last event that was."""
        last = self.end or (self.saves[-1] if self.saves else self.began) or self.start
        return max(last.time - self.start.time, 0.0) / 3600


def training_attempts(events: Iterable[Event]) -> list[TrainingAttempt]:
    """Return the starts of the training, oldest first."""
    found: list[TrainingAttempt] = []
    for event in events:
        if isinstance(event, AttemptStarted) and event.stage == "train":
            found.append(TrainingAttempt(event))
        elif not found:
            continue
        elif isinstance(event, AttemptEnded) and event.stage == "train":
            found[-1].end = event
        elif isinstance(event, TrainingStarted | TrainingResumed):
            found[-1].began = event
        elif isinstance(event, CheckpointSaved):
            found[-1].saves.append(event)
    return found
