"""An unfinished probe on disk: a job that is ended in the middle of a long search goes on from there."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from trex import tensor_files
from trex.errors import UserError

log = logging.getLogger(__name__)

#: Seconds from one writing to the next; a search that takes less is not worth a file.
EVERY = 20.0
#: Writing may take one part of so many of the time.
SHARE = 30


class Partial:
    """The state of one search, kept beside the result that it will become."""

    def __init__(self, result: Path, made_from: dict[str, Any]) -> None:
        """Takes up what is there, if the same features and settings made it."""
        self.path = result.with_name(f".{result.stem}.partial.pt")
        self.made_from = made_from
        self.state: dict[str, Any] = self._read()
        self._next = time.monotonic() + EVERY
        self._changed = False

    def update(self, **values: Any) -> None:
        """Take over new values, and write all of them if the last writing is some time ago."""
        self.state |= values
        self._changed = True
        if time.monotonic() > self._next:
            self.write()

    def write(self) -> None:
        """Write what is not written yet. A disk that does not take it costs only the way back."""
        if not self._changed:
            return
        began = time.monotonic()
        try:
            tensor_files.save({"made_from": self.made_from, "state": self.state}, self.path)
        except OSError as error:
            log.warning("cannot keep the unfinished search (%s): going on", error)
        now = time.monotonic()
        self._next, self._changed = now + max(EVERY, SHARE * (now - began)), False

    def remove(self) -> None:
        """Delete it: the result is there."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {}
        try:
            found = tensor_files.load(self.path)
        except UserError as error:
            log.warning("the unfinished search is not readable, beginning anew: %s", error)
            return {}
        if not isinstance(found, dict) or found.get("made_from") != self.made_from:
            return {}
        log.info("going on with the search that was ended before it had finished")
        state: dict[str, Any] = found["state"]
        return state
