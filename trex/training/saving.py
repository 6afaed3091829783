"""Decides when the training state is saved, writes it while the training continues, and handles failures to write it.

A save copies the state into memory (trex/training/host_copy.py), and a thread of rank 0 writes the copy. At most one is
being written. How it ended is known to all ranks before the same step: rank 0 asks for it when all agree on the next
step, and the next save, a stop and the end wait for it. The saves at a stop and at the end are written at once, because
nothing is left to do meanwhile (docs/adr/0036-checkpoints-are-written-while-the-training-continues.md).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from enum import IntEnum

from trex import tensor_files
from trex.config.schema import CheckpointConfig
from trex.distributed import Ranks
from trex.errors import TrexError, Unwritable, UserError
from trex.records.events import SaveReason
from trex.records.run_dir import RunDir
from trex.storage import make_folder, require_space, unwritable
from trex.training.checkpoint import Checkpoint, Checkpoints, State
from trex.training.fallback import Fallback
from trex.training.host_copy import HostCopy
from trex.training.interval import Interval
from trex.training.state import Position
from trex.wording import counted

log = logging.getLogger(__name__)

#: After this many failed saves in a row the run ends, instead of computing steps that are never saved.
MAX_FAILED_SAVES = 3

#: How often the state is written at the end or after a stop signal, when there is no later save. A single error of the
#: file system must not cost the steps since the last checkpoint.
TRIES_OF_THE_LAST_SAVE = 2


#: The reasons of the saves after which no step follows.
LAST_SAVES: tuple[SaveReason, ...] = ("stop", "end")


class Request(IntEnum):
    """What a rank requests at the end of a step. All ranks follow the highest request of any rank."""

    CONTINUE = 0
    FINISH = 1  #: a checkpoint has been written in the background, or could not be: `Saving.finish`
    SAVE = 2
    STOP = 3


@dataclass(frozen=True)
class _Save:
    """A save that was asked for."""

    position: Position
    reason: SaveReason

    @property
    def is_last(self) -> bool:
        return self.reason in LAST_SAVES


@dataclass(frozen=True)
class _Outcome:
    """How a save ended. Rank 0 knows it and sends it to the others."""

    problem: str = ""  #: why the run folder has no checkpoint; empty: it has one
    gone: bool = False  #: whether the run folder is gone
    place: str = ""  #: where the checkpoint is instead, if it is in the second place
    refused: str = ""  #: why this state must not be saved


class _Background(threading.Thread):
    """Calls a function in a thread that does not keep the process from ending."""

    def __init__(self, work: Callable[[], _Outcome]) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self._work = work
        self._outcome = _Outcome()
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._outcome = self._work()
        except BaseException as error:  # raised by `wait`, in the thread that trains
            self._error = error

    def wait(self) -> _Outcome:
        """Wait for the function, and return its result or raise its error."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._outcome


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
            on_saved: called on rank 0 after each save with the checkpoint, the reason, and the seconds of the writing.
        """
        self._checkpoints, self._settings, self._ranks, self._on_saved = checkpoints, settings, ranks, on_saved
        run = RunDir(checkpoints.folder.parent)
        self._fallback = Fallback(run.root, settings)
        self._interval = Interval(settings.every_minutes, run.events)
        self._last: Position | None = None
        self._last_time = time.monotonic()
        self._writing: _Save | None = None  # what is written in the background, on every rank
        self._background: _Background | None = None  # on rank 0
        self._copy = HostCopy()
        self._made: list[tuple[Checkpoint, SaveReason, float]] = []  # written, and not reported yet
        self._waited: float | None = None  # seconds that the training waited for the last save that is not the end
        self._failed = 0
        self._warned = False  # that the time before the limit is short

    def begin(self, position: Position, on_disk: bool) -> None:
        """Note where the training begins, and whether that state is on disk already. Every rank must call it."""
        self._last = replace(position) if on_disk else None
        if self._ranks.is_main:
            self._interval.begin(position.global_step)

    def request(self, stop: bool) -> Request:
        """Return this rank's request.

        It is to stop if `stop` is true, to note that a checkpoint was written, to save if `checkpoint.every_minutes`
        have passed (only rank 0 measures the time, and chooses the minutes if they are `auto`; no save is due as long
        as one is being written), or else to continue.
        """
        if stop:
            return Request.STOP
        if self._background is not None:
            return Request.CONTINUE if self._background.is_alive() else Request.FINISH
        seconds = self._interval.seconds
        if self._ranks.is_main and seconds and time.monotonic() - self._last_time > seconds:
            return Request.SAVE
        return Request.CONTINUE

    def compare_with_lead(self, lead: float | None, step: float) -> None:
        """Warn once if two steps and two saves take longer than the job has from the signal to its time limit.

        Two steps, because the signal may come just after the ranks have agreed on a step, and they agree before the
        next one is done on the device. Two saves, because one may just have begun in the background.

        Args:
            lead: seconds from the signal to the time limit; None if not known.
            step: seconds that a step takes.
        """
        save = self._interval.write_seconds
        if lead and save is not None and 2 * step + 2 * save > lead and not self._warned:
            self._warned = True
            log.warning(
                "signal_lead is %g s, but two steps and two saves, one of which may be under way, take %.0f s: at the "
                "time limit, the job may be killed before it has saved. Set signal_lead in the cluster file to more "
                "than that, and time to at least three times that",
                lead, 2 * step + 2 * save,
            )  # fmt: skip

    def is_due(self, step: int) -> bool:
        """Whether to save after `step` steps in total, whatever the ranks request."""
        every = self._settings.every_steps
        return bool(every and step % every == 0)

    def is_saved(self, position: Position) -> bool:
        """Whether the newest checkpoint has this position, or the one that is being written."""
        return position == self._last or (self._writing is not None and position == self._writing.position)

    def is_milestone(self, position: Position) -> bool:
        """Whether the checkpoint at this position is kept permanently."""
        every = self._settings.milestone_epochs
        return bool(every) and position.step == 0 and position.epoch > 0 and position.epoch % every == 0

    def write(
        self,
        state: State,
        position: Position,
        reason: SaveReason,
        since: float | None = None,
        check: Callable[[State], str] | None = None,
    ) -> None:
        """Save a state. Every rank must call it.

        At a stop and at the end, the checkpoint is written when this returns. Otherwise the state is copied, and the
        copy is written in the background: call `finish` later. A write that is still under way is waited for first.
        The checkpoint at the end of every `checkpoint.milestone_epochs`-th epoch is kept permanently.

        Args:
            state: what to write.
            position: of this state.
            reason: why it is saved.
            since: `time.monotonic()` since when the training waits for this save; None: since now.
            check: called with the copy before it is written, in the thread that writes; returns why it must not be
                saved, or an empty text.

        Raises:
            Unwritable: if the write fails for the third time in a row, or twice at the end of the training or after a
                stop signal and there is no second place, or if the run folder is gone. Other failures are logged. A
                failure in the background is raised later, by `finish`.
        """
        save = _Save(replace(position), reason)
        since = time.monotonic() if since is None else since
        self.finish(save.is_last)
        if not save.is_last and self._ranks.on_main(lambda: self._begin(state, save, check)):
            self._writing = save
            self._last_time = time.monotonic()
            self._waited = self._last_time - since
            return
        outcome = _Outcome(*self._ranks.on_main(lambda: astuple(self._write_now(state, save, check, since))))
        self._last_time = time.monotonic()
        self._note(save, outcome)

    def finish(self, before_last: bool = False) -> None:
        """Wait until the checkpoint in the background is written, if there is one. Every rank must call it.

        Args:
            before_last: whether a save follows after which the training ends. Then a failure is only logged, because
                that save is tried more than once.

        Raises:
            Unwritable: as `write`.
            TrexError: if its check refused the state.
        """
        if self._writing is None:
            return
        save, self._writing = self._writing, None
        self._note(save, _Outcome(*self._ranks.on_main(lambda: astuple(self._wait()))), before_last)

    def close(self, seconds: float) -> None:
        """Free the memory of the copy. If an error has ended the training, wait for a checkpoint that is under way.

        Args:
            seconds: how long to wait for it.
        """
        self._copy = HostCopy()
        if self._background is None:
            return
        self._background.join(seconds)
        if self._background.is_alive():
            log.warning("a checkpoint is still not written after %g s: it is given up", seconds)
            return
        try:
            outcome = self._wait()
        except Exception as error:  # the one that ended the training is raised
            log.warning("cannot save: %s", error)
            return
        if said := outcome.problem or outcome.refused:
            log.warning("cannot save: %s", said)

    def _begin(self, state: State, save: _Save, check: Callable[[State], str] | None) -> bool:
        """Begin to write a copy of the state. Returns False if there is no memory, or no thread, for it."""
        try:
            copy = self._copy.take(state)
            background = _Background(lambda: self._write(copy, save, check))
            background.start()
        except (MemoryError, RuntimeError) as error:
            log.warning("the state cannot be copied (%s), so the training waits until it is written", error)
            return False
        self._background = background
        return True

    def _write_now(self, state: State, save: _Save, check: Callable[[State], str] | None, since: float) -> _Outcome:
        """Write a checkpoint while the training waits, and report it."""
        outcome = self._write(state, save, check)
        self._waited = None if save.is_last else time.monotonic() - since
        return self._reported(outcome)

    def _wait(self) -> _Outcome:
        """Wait for the write in the background, and report what it has written."""
        background, self._background = self._background, None
        assert background is not None
        return self._reported(background.wait())

    def _reported(self, outcome: _Outcome) -> _Outcome:
        """Report what was written, in the thread that trains: it is the only one that writes the history."""
        made, self._made = self._made, []
        try:
            for one in made:
                self._on_saved(*one)
        except Unwritable as error:
            return _Outcome(str(error), gone=True)
        if self._ranks.is_main and made and not outcome.problem:
            self._interval.saved(self._waited, made[-1][2], made[-1][0].manifest.step)
        return outcome

    def _note(self, save: _Save, outcome: _Outcome, before_last: bool = False) -> None:
        """Count failures and remember the last save. Raises the errors of `write` and `finish`, on every rank."""
        if outcome.refused:
            raise TrexError(outcome.refused)
        step, problem, place = save.position.global_step, outcome.problem, outcome.place
        self._failed = self._failed + 1 if problem else 0
        if not problem or (place and save.reason == "stop"):
            self._last = save.position
        elif outcome.gone:
            raise Unwritable(problem)
        elif place:  # the next stage looks for the finished training in the run folder
            raise Unwritable(f"cannot save step {step}: {problem} It is saved in {place} instead.")
        elif save.is_last or (self._failed >= MAX_FAILED_SAVES and not before_last):
            raise Unwritable(f"cannot save step {step}: {problem} {self._lost(save.position)}")
        else:
            then = "saves now" if before_last else "continues and saves again at the usual time"
            log.warning("cannot save: %s The training %s", problem, then)

    def _write(self, state: State, save: _Save, check: Callable[[State], str] | None) -> _Outcome:
        """Write a checkpoint. At a stop or at the end, try again, and then in the second place."""
        if check is not None and (refused := check(state)):
            return _Outcome(refused=refused)
        problem = ""
        try:
            for _ in range(TRIES_OF_THE_LAST_SAVE if save.is_last else 1):
                problem = self._attempt(state, save)
                if not problem:
                    return _Outcome()
        except Unwritable as error:
            return _Outcome(str(error), gone=True)
        return _Outcome(problem, place=self._write_elsewhere(state, save.reason) if save.is_last else "")

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
        self._made.append((made, reason, time.monotonic() - started))
        return str(made.path)

    def _attempt(self, state: State, save: _Save) -> str:
        """Write a checkpoint. Returns why it failed, or an empty text. Raises Unwritable if the run folder is gone."""
        started, folder, needed = time.monotonic(), self._checkpoints.folder, tensor_files.size(state)
        milestone = save.reason in ("epoch", "end") and self.is_milestone(save.position)
        finished = save.reason == "end"
        try:
            make_folder(folder)
            require_space(folder, needed)
            made = self._checkpoints.write(state, self._settings.keep, milestone=milestone, finished=finished)
        except OSError as error:
            error.filename = None  # a temporary name says nothing to the user
            return str(unwritable(error, folder, needed))
        self._made.append((made, save.reason, time.monotonic() - started))
        return ""

    def _lost(self, position: Position) -> str:
        """Return what is lost without a checkpoint at `position`."""
        last = 0 if self._last is None else self._last.global_step
        steps = f"The {counted(position.global_step - last, 'step')} after step {last} are lost"
        return f"{steps}; the checkpoint of step {last} is kept." if last else f"{steps}; there is no checkpoint."
