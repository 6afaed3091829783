"""A signal that comes at a chosen moment."""

from __future__ import annotations

from trex.interruption import StopRequest


class StopAfter(StopRequest):
    """Asks to stop once it has been looked at so many times: after exactly that step, batch or piece of work."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.left = looks

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0
