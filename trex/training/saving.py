"""Decides when the training state is saved, and handles failures to write it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum

from trex import tensor_files
from trex.config.schema import CheckpointConfig
from trex.distributed import Ranks
from trex.errors import Unwritable, UserError
from trex.records.events import SaveReason
from trex.records.run_dir import RunDir
from trex.storage import make_folder, require_space, unwritable
from trex.training.checkpoint import Checkpoint, Checkpoints, State
from trex.training.fallback import Fallback
from trex.training.interval import Interval
from trex.training.state import Position
from trex.wording import counted

log = logging.getLogger(__name__)

#: After this many failed saves in a row the run ends, instead of computing steps that are never saved.
MAX_FAILED_SAVES = 3

#: How often the state is written at the end or after a stop signal, when there is no later save. A single error of the
#: file system must not cost the steps since the last checkpoint.
TRIES_OF_THE_LAST_SAVE = 2


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
        run = RunDir(checkpoints.folder.parent)
        self._fallback = Fallback(run.root, settings)
        self._interval = Interval(settings.every_minutes, run.events)
        self._last: Position | None = None
        self._last_time = time.monotonic()
        self._failed = 0
        self._warned = False  # that the time before the limit is short

    def begin(self, position: Position, on_disk: bool) -> None:
        """Note where the training begins, and whether that state is on disk already. Every rank must call it."""
        self._last = replace(position) if on_disk else None
        if self._ranks.is_main:
            self._interval.begin(position.global_step)

    def request(self, stop: bool) -> Request:
        """Return this rank's request.

        It is to stop if `stop` is true, to save if `checkpoint.every_minutes` have passed (only rank 0 measures the
        time, and chooses the minutes if they are `auto`), or else to continue.
        """
        if stop:
            return Request.STOP
        seconds = self._interval.seconds
        if self._ranks.is_main and seconds and time.monotonic() - self._last_time > seconds:
            return Request.SAVE
        return Request.CONTINUE

    def compare_with_lead(self, lead: float | None, step: float) -> None:
        """Warn once if two steps and a save take longer than the job has from the signal to its time limit.

        Two, because the signal may come just after the ranks have agreed on a step, and they agree before the next one
        is done on the device.

        Args:
            lead: seconds from the signal to the time limit; None if not known.
            step: seconds that a step takes.
        """
        save = self._interval.save_seconds
        if lead and save is not None and 2 * step + save > lead and not self._warned:
            self._warned = True
            log.warning(
                "signal_lead is %g s, but two steps and a save take %.0f s: at the time limit, the job may be killed "
                "before it has saved. Set signal_lead in the cluster file to more than that, and time to at least "
                "three times that",
                lead, 2 * step + save,
            )  # fmt: skip

    def is_due(self, step: int) -> bool:
        """Whether to save after `step` steps in total, whatever the ranks request."""
        every = self._settings.every_steps
        return bool(every and step % every == 0)

    def is_saved(self, position: Position) -> bool:
        """Whether the newest checkpoint has this position."""
        return position == self._last

    def is_milestone(self, position: Position) -> bool:
        """Whether the checkpoint at this position is kept permanently."""
        every = self._settings.milestone_epochs
        return bool(every) and position.step == 0 and position.epoch > 0 and position.epoch % every == 0

    def write(self, state: State, position: Position, reason: SaveReason, since: float | None = None) -> None:
        """Write a checkpoint. Every rank must call it.

        The checkpoint at the end of every `checkpoint.milestone_epochs`-th epoch is kept permanently.

        Args:
            state: what to write.
            position: of this state.
            reason: why it is saved.
            since: `time.monotonic()` since when the training waits for this save; None: since now.

        Raises:
            Unwritable: if the write fails for the third time in a row, or twice at the end of the training or after a
                stop signal and there is no second place, or if the run folder is gone. Other failures are logged.
        """
        is_last = reason in ("stop", "end")
        since = time.monotonic() if since is None else since
        problem, gone, place = self._ranks.on_main(lambda: self._write_somewhere(state, position, reason))
        self._last_time = time.monotonic()
        self._failed = self._failed + 1 if problem else 0
        if self._ranks.is_main and not problem:
            self._interval.saved(self._last_time - since, position.global_step)
        if not problem or (place and reason == "stop"):
            self._last = replace(position)
        elif gone:
            raise Unwritable(problem)
        elif place:  # the next stage looks for the finished training in the run folder
            raise Unwritable(f"cannot save step {position.global_step}: {problem} It is saved in {place} instead.")
        elif is_last or self._failed >= MAX_FAILED_SAVES:
            raise Unwritable(f"cannot save step {position.global_step}: {problem} {self._lost(position)}")
        else:
            log.warning("cannot save: %s The training continues and saves again at the usual time", problem)

    def _write_somewhere(self, state: State, position: Position, reason: SaveReason) -> tuple[str, bool, str]:
        """Write a checkpoint. At a stop or at the end, try again, and then in the second place.

        Returns:
            Why the run folder has no checkpoint, or an empty text; whether the run folder is gone; and where the
            checkpoint is instead, or an empty text.
        """
        is_last, problem = reason in ("stop", "end"), ""
        try:
            for _ in range(TRIES_OF_THE_LAST_SAVE if is_last else 1):
                problem = self._attempt(state, position, reason)
                if not problem:
                    return "", False, ""
        except Unwritable as error:
            return str(error), True, ""
        return problem, False, self._write_elsewhere(state, reason) if is_last else ""

    def _write_elsewhere(self, state: State, reason: SaveReason) -> str:
        """Write a checkpoint into `checkpoint.fallback_folder`. Returns where it is, or an empty text."""
        started = time.monotonic()
        try:
            made = self._fallback.write(state, finished=reason == "end")
        except UserError as error:
            log.error("checkpoint.fallback_folder: %s", error)
            return ""
        except OSError as error:
            log.error("checkpoint.fallback_folder: %s", unwritable(error, self._checkpoints.folder))
            return ""
        if made is None:
            return ""
        log.warning("the run folder takes no checkpoint: saved in %s. The next start continues from there", made.path)
        self._on_saved(made, reason, time.monotonic() - started)
        return str(made.path)

    def _attempt(self, state: State, position: Position, reason: SaveReason) -> str:
        """Write a checkpoint. Returns why it failed, or an empty text. Raises Unwritable if the run folder is gone."""
        started, folder, needed = time.monotonic(), self._checkpoints.folder, tensor_files.size(state)
        milestone = reason in ("epoch", "end") and self.is_milestone(position)
        try:
            make_folder(folder)
            require_space(folder, needed)
            made = self._checkpoints.write(state, self._settings.keep, milestone=milestone, finished=reason == "end")
        except OSError as error:
            error.filename = None  # a temporary name says nothing to the user
            return str(unwritable(error, folder, needed))
        self._on_saved(made, reason, time.monotonic() - started)
        return ""

    def _lost(self, position: Position) -> str:
        """Return what is lost without a checkpoint at `position`."""
        last = 0 if self._last is None else self._last.global_step
        steps = f"The {counted(position.global_step - last, 'step')} after step {last} are lost"
        return f"{steps}; the checkpoint of step {last} is kept." if last else f"{steps}; there is no checkpoint."
