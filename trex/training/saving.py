"""Decides when the training state is saved, and handles failures to write it."""

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

#: After this many failed saves in a row the run ends, instead of computing steps that are never saved.
MAX_FAILED_SAVES = 3


class Request(IntEnum):
    """What a rank requests at the end of a step. All ranks follow the highest request of any rank."""

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
        on_saved: Callable[[Checkpoint, SaveReason, float], None],
    ) -> None:
        """
        Args:
            checkpoints: the run's checkpoints.
            settings: how often to save, and how many checkpoints to keep.
            ranks: the ranks that train together; all of them call `write`.
            on_saved: called on rank 0 after each save with the checkpoint, the reason, and the duration in seconds.
        """
        self._checkpoints, self._settings, self._ranks, self._on_saved = checkpoints, settings, ranks, on_saved
        self._last: Position | None = None
        self._last_time = time.monotonic()
        self._failed = 0

    def resumed_at(self, position: Position) -> None:
        """Note that the state at `position` is already on disk."""
        self._last = replace(position)

    def request(self, stop: bool) -> Request:
        """Return this rank's request.

        It is to stop if `stop` is true, to save if `checkpoint.every_minutes` have passed (only rank 0 measures the
        time), or else to continue.
        """
        if stop:
            return Request.STOP
        minutes = self._settings.every_minutes
        if self._ranks.is_main and minutes and time.monotonic() - self._last_time > 60 * minutes:
            return Request.SAVE
        return Request.CONTINUE

    def is_due(self, request: Request, step: int) -> bool:
        """Whether to save after `step` steps in total, given the request that the ranks agreed on."""
        every = self._settings.every_steps
        return request == Request.SAVE or bool(every and step % every == 0)

    def is_saved(self, position: Position) -> bool:
        """Whether the newest checkpoint has this position."""
        return position == self._last

    def is_milestone(self, position: Position) -> bool:
        """Whether the checkpoint at this position is kept permanently."""
        every = self._settings.milestone_epochs
        return bool(every) and position.step == 0 and position.epoch > 0 and position.epoch % every == 0

    def write(self, state: State, position: Position, reason: SaveReason) -> None:
        """Write a checkpoint. Every rank must call it.

        The checkpoint at the end of every `checkpoint.milestone_epochs`-th epoch is kept permanently.

        Raises:
            TrexError: if the write fails at the end of the training, after a stop signal, or for the third time in a
                row. Other failures are logged.
        """
        started, problem = time.monotonic(), ""
        if self._ranks.is_main:
            milestone = reason in ("epoch", "end") and self.is_milestone(position)
            try:
                made = self._checkpoints.write(
                    state, self._settings.keep, milestone=milestone, finished=reason == "end"
                )
                self._on_saved(made, reason, time.monotonic() - started)
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
            log.warning("cannot write a checkpoint (%s): training continues and saves again at the usual time", problem)
