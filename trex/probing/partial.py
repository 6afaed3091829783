"""An unfinished search on disk: a job that is stopped in the middle of a long one continues from there."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from trex import tensor_files
from trex.errors import UserError
from trex.records.probe_result import Trial
from trex.records.typed import Mismatch, decode_dataclass, encode

log = logging.getLogger(__name__)

#: Seconds from one writing to the next; a search that takes less is not worth a file.
EVERY = 20.0
#: Writing may take at most this part of the time.
SHARE = 1 / 30


class Partial:
    """What one search has found so far, kept beside the result that it will become.

    `own` is what the kind of probe keeps besides its trials: tensors in plain containers, whose layout only that kind
    knows; None at the beginning.
    """

    def __init__(self, result: Path, key: str) -> None:
        """Reads the file that is there, if it has the same key.

        Args:
            result: the file that the search will end with.
            key: all that determines the search, such as `ProbeProvenance.key`; what has another key is not continued.
        """
        self.path = result.with_name(f".{result.stem}.partial.pt")
        self.key = key
        self.seconds = 0.0  #: of all attempts
        self.trials: tuple[Trial, ...] = ()
        self.own: object = None
        self._read()
        self._next = time.monotonic() + EVERY
        self._changed = False

    def update(self, *, trials: Sequence[Trial] | None = None, own: object = None) -> None:
        """Take over new values, those that are given, and write everything if the last writing is some time ago."""
        if trials is not None:
            self.trials = tuple(trials)
        if own is not None:
            self.own = own
        self._changed = True
        if time.monotonic() > self._next:
            self.write()

    def write(self) -> None:
        """Write what is not written yet. If the disk refuses, only the possibility to continue is lost."""
        if not self._changed:
            return
        began = time.monotonic()
        content = {
            "key": self.key,
            "seconds": self.seconds,
            "trials": [encode(trial) for trial in self.trials],
            "own": self.own,
        }
        try:
            tensor_files.save(content, self.path)
        except OSError as error:
            log.warning("cannot write the unfinished search (%s): continuing without", error)
        now = time.monotonic()
        self._next, self._changed = now + max(EVERY, (now - began) / SHARE), False

    def remove(self) -> None:
        """Delete it: the result is there."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        if not self.path.exists():
            return
        try:
            found = tensor_files.load(self.path)
            if found["key"] != self.key:
                return
            trials = tuple(decode_dataclass(Trial, trial) for trial in found["trials"])
            self.seconds, self.trials, self.own = float(found["seconds"]), trials, found["own"]
        except (UserError, Mismatch, KeyError, TypeError, ValueError) as error:
            log.warning("%s: the unfinished search is not readable, beginning again (%s)", self.path, error)
            return
        log.info("continuing the search that was stopped before it had finished")
