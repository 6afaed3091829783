"""Stop signals: the handler only sets a flag, and every long loop checks it between two units of work.

Preemption, the warning before the time limit, `scancel` and Ctrl-C all arrive as signals (SIGTERM, SIGUSR2, SIGINT).
The work is saved in each case. The code in `jobs/` decides whether the job continues.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

from trex.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class _Left(BaseException):
    """Ends a block of `StopRequest.leaves`. No code that handles errors catches it."""


class StopRequest:
    """True once a signal has asked this process to stop.

    Repeated signals change nothing, because Slurm repeats SIGTERM at the end of the grace time while a save may still
    be running. Only a second Ctrl-C ends the process at once, because a person sends it on purpose.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self.received_at: float | None = None  #: time.time() of the first signal
        self.lead_seconds: float | None = None  #: from the signal before the time limit to the limit; None: not known
        self._at_once = False

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def install(self) -> StopRequest:
        """Catch the stop signals from now on. Call it in the main thread, before heavy imports.

        Stop signals that arrived while they were blocked are delivered now. jobs/local/run.py starts its processes
        with these signals blocked.
        """
        for number in SIGNALS:
            signal.signal(number, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return self

    def check(self) -> None:
        """Raise Interrupted if a stop was requested. For loops whose finished units of work are already on disk."""
        if self:
            raise Interrupted(
                f"stopped by {self.signal_name}: finished work is saved; run the same command to continue"
            )

    @contextlib.contextmanager
    def leaves(self) -> Iterator[None]:
        """Leave this block as soon as a signal arrives, and continue after it.

        For the slow parts of a start, such as listing a dataset on a slow file system: they write nothing, so nothing
        is lost. The code after the block must check this request first, because the block may be unfinished.
        """
        self._at_once = True
        try:
            try:
                yield
            finally:
                self._at_once = False
        except _Left:
            self._at_once = False  # the signal may have arrived in the line above

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_name is None:
            self.signal_name = signal.Signals(number).name
            self.received_at = time.time()
        elif number == signal.SIGINT and time.time() - (self.received_at or 0) > 1.0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        if self._at_once:
            raise _Left


def leave_signals_to_parent() -> None:
    """Ignore the stop signals in a helper process such as a loader worker.

    Some clusters send signals to whole process trees. If a worker were killed, its parent would end before the state
    is saved.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
