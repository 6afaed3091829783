"""The time that a process may take for a step. A process that takes longer shows what it is doing, and ends."""

from __future__ import annotations

import faulthandler
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from trex.errors import ExitCode

#: A rank waits for its batch as long as the limit says. If it hangs elsewhere, it shows where after these seconds more.
SECONDS_TO_SHOW = 5.0
#: After these seconds more, the other ranks know that it is lost, so that the error that knows most comes first.
SECONDS_TO_NOTICE = 10.0
#: After these seconds more, it ends itself.
SECONDS_TO_END = 20.0

_SECONDS_TO_RECORD = 10.0
_POLL_SECONDS = 0.5


class TimeLimit:
    """How many seconds a process may take for its next step or batch: many at the start, fewer for all later ones."""

    def __init__(self, start: float = 1800.0, step: float = 300.0) -> None:
        self.seconds = start  #: the present limit
        self._step = step
        self._steps = 0
        self._until = math.inf

    def next_step(self) -> bool:
        """Begin a step. Returns whether the limit has become shorter: at the second step."""
        self._steps += 1
        if self._steps == 2:
            self.seconds = self._step
        self._until = time.monotonic() + self.seconds
        return self._steps == 2

    def next_batch(self) -> None:
        """Begin to wait for a batch, which this process may have to read itself."""
        self._until = time.monotonic() + self.seconds

    def pause(self) -> None:
        """Do not look at the time until the next batch or step: other ranks are waited for, or the state is saved."""
        self._until = math.inf

    def watch(self, record: Callable[[str], object]) -> None:
        """Look at the time from a thread.

        If a step takes too long, the stacks of all threads are written to the standard error, which is the log of the
        process: a rank may hang, or wait for one that does. Then the other ranks notice it and end with an error that
        names it. If nothing has ended this process `SECONDS_TO_END` after the limit, it ends itself.

        Args:
            record: is called with the reason before the process ends itself with LOST, and gets some seconds.
        """
        threading.Thread(target=self._watch, args=(record,), daemon=True).start()

    def _watch(self, record: Callable[[str], object]) -> None:
        while True:
            until = self._until
            if time.monotonic() > until + SECONDS_TO_SHOW:
                sys.stderr.write(f"a step takes more than {self.seconds:g} s; what this process is doing:\n")
                sys.stderr.flush()
                faulthandler.dump_traceback(file=2)
                while self._until == until:
                    if time.monotonic() > until + SECONDS_TO_END:
                        self._end(record)
                    time.sleep(_POLL_SECONDS)
            time.sleep(_POLL_SECONDS)

    def _end(self, record: Callable[[str], object]) -> NoReturn:
        reason = (
            f"a step took more than {self.seconds:g} s (limits.step_seconds; limits.start_seconds for the first one): "
            f"the log of this process has the stack of what it was doing"
        )
        sys.stderr.write(f"{reason}\n")
        sys.stderr.flush()
        recording = threading.Thread(target=record, args=(reason,), daemon=True)
        recording.start()  # not here, because it may have to wait for the file system that the step waits for
        recording.join(_SECONDS_TO_RECORD)
        os._exit(ExitCode.LOST)
