"""When the training state is saved, and what happens when it cannot be written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum

from trex.config.schema import CheckpointConfig
from trex.distributed import Ranks
from trex.errors import TrexError
from trex.records.events import SaveReason
from trex.training.checkpoint import Checkpoint, Checkpoints, State
from trex.training.state import Position

log = logging.getLogger(__name__)

#: After so many failed saves in a row the run ends, instead of computing steps that are never saved.
MAX_FAILED_SAVES = 3


class Request(IntEnum):
    """What a rank asks for at the end of a step; all ranks do the highest request of any of them."""

    CONTINUE = 0
    SAVE = 1
    STOP = 2


class Saving:
    """Decides when a checkpoint is due, writes it on rank 0, and tolerates a few failed writes."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        settings: CheckpointConfig,
        ranks: Ranks,
        announce: Callable[[Checkpoint, SaveReason, float], None],
    ) -> None:
        """
        Args:
            checkpoints: where they are written.
            settings: when.
            ranks: all of them call `write`.
            announce: called on rank 0 with a new checkpoint, the reason for it and the seconds that it took.
        """
        self._checkpoints, self._settings, self._ranks, self._announce = checkpoints, settings, ranks, announce
        self._last: Position | None = None
        self._last_time = time.monotonic()
        self._failed = 0

    def resumed_at(self, position: Position) -> None:
        """The state at `position` is on disk already."""
        self._last = replace(position)

    def request(self, stop: bool) -> Request:
        """What this rank asks for: to stop, to save because the time is up (rank 0 has the clock), or to continue."""
        if stop:
            return Request.STOP
        minutes = self._settings.every_minutes
        if self._ranks.is_main and minutes and time.monotonic() - self._last_time > 60 * minutes:
            return Request.SAVE
        return Request.CONTINUE

    def is_due(self, request: Request, step: int) -> bool:
        """Whether to save after `step` steps in all, given what the ranks agreed on."""
        every = self._settings.every_steps
        return request == Request.SAVE or bool(every and step % every == 0)

    def is_saved(self, position: Position) -> bool:
        """Whether the newest checkpoint has this position."""
        return position == self._last

    def write(self, state: State, position: Position, reason: SaveReason) -> None:
        """Write a checkpoint; every rank calls it. Those of some epochs' ends are kept for good.

        Raises:
            TrexError: if it cannot be written and it is the last chance, or the third failure in a row. Other failures
                are logged.
        """
        began, problem = time.monotonic(), ""
        if self._ranks.is_main:
            every = self._settings.milestone_epochs
            milestone = bool(reason in ("epoch", "end") and every and position.epoch % every == 0)
            try:
                made = self._checkpoints.write(
                    state, self._settings.keep, milestone=milestone, finished=reason == "end"
                )
                self._announce(made, reason, time.monotonic() - began)
            except OSError as error:
                problem = str(error)
        problem = self._ranks.broadcast(problem)
        self._last_time = time.monotonic()
        self._failed = self._failed + 1 if problem else 0
        if not problem:
            self._last = replace(position)
        elif reason in ("stop", "end") or self._failed >= MAX_FAILED_SAVES:
            raise TrexError(f"cannot write a checkpoint into {self._checkpoints.folder}: {problem}")
        else:
            log.warning(
                "cannot write a checkpoint (%s): training continues, and the next one is tried as usual", problem
            )
