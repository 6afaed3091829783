"""A stop request that arrives at a chosen moment."""

from __future__ import annotations

from trex.interruption import StopRequest


class StopAfter(StopRequest):
    """Asks to stop after it has been checked `checks` times, so that a test can choose the step or batch to stop at."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self.left = checks

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0
