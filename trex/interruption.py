"""Being asked to stop: the handler only sets a flag, and every long loop looks at it between two units of work.

Preemption, the time limit's warning, `scancel` and Ctrl-C all arrive here alike (SIGTERM, SIGUSR2, SIGINT): the work
is saved in each case, and whether the job goes on is decided outside (jobs/).
"""

from __future__ import annotations

import signal
import time
from types import FrameType

from trex.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class StopRequest:
    """Whether a signal has asked this process to stop.

    Repeated signals change nothing, since Slurm repeats SIGTERM at the end of the grace time while a save may still
    run. Only a second Ctrl-C, which a person means, ends the process at once.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self.received_at: float | None = None  #: time.time() of the first signal

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def install(self) -> StopRequest:
        """Catch the stop signals in this process from now on; call it in the main thread, before heavy imports."""
        for number in SIGNALS:
            signal.signal(number, self._handle)
        return self

    def check(self) -> None:
        """Raise Interrupted if asked to stop; for loops whose finished units are already on disk."""
        if self:
            raise Interrupted(f"stopped by {self.signal_name}; finished work is saved, the same command continues")

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_name is None:
            self.signal_name = signal.Signals(number).name
            self.received_at = time.time()
        elif number == signal.SIGINT and time.time() - (self.received_at or 0) > 1.0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)


def leave_signals_to_parent() -> None:
    """For helper processes such as data loader workers: the stop signals reach whole process trees on some clusters,
    and a worker that died of one would take the state down before it is saved."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
