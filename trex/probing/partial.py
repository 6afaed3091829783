"""The file of an unfinished search, so that an interrupted job continues it instead of beginning again."""

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

#: Seconds between two writes; a shorter search writes no file.
WRITE_INTERVAL = 20.0
#: The largest share of the time that writing may take.
WRITE_SHARE = 1 / 30


class Partial:
    """The progress of one search, stored in a file next to the future result file.

    `own` is the solver state that a kind of probe stores besides its trials: tensors in lists, tuples and dicts, in a
    layout that only this kind knows. It is None at the beginning.
    """

    def __init__(self, result: Path, key: str) -> None:
        """Read the progress from the file, if it exists and has the same key.

        Args:
            result: the future result file.
            key: identifies everything that determines the search, such as `ProbeProvenance.key`. A search with another
                key is not continued.
        """
        self.path = result.with_name(f".{result.stem}.partial.pt")
        self.key = key
        self.seconds = 0.0  #: the time of all attempts
        self.trials: tuple[Trial, ...] = ()
        self.own: object = None
        self._read()
        self._next_write = time.monotonic() + WRITE_INTERVAL
        self._changed = False

    def update(self, *, trials: Sequence[Trial] | None = None, own: object = None) -> None:
        """Replace the given values, and write the file if the last write is long enough ago."""
        if trials is not None:
            self.trials = tuple(trials)
        if own is not None:
            self.own = own
        self._changed = True
        if time.monotonic() > self._next_write:
            self.write()

    def write(self) -> None:
        """Write the file if anything has changed. If that fails, the search cannot be continued after a stop."""
        if not self._changed:
            return
        start = time.monotonic()
        content = {
            "key": self.key,
            "seconds": self.seconds,
            "trials": [encode(trial) for trial in self.trials],
            "own": self.own,
        }
        try:
            tensor_files.save(content, self.path)
        except OSError as error:
            log.warning("%s: cannot write the unfinished search, continuing without it (%s)", self.path, error)
        now = time.monotonic()
        self._next_write, self._changed = now + max(WRITE_INTERVAL, (now - start) / WRITE_SHARE), False

    def remove(self) -> None:
        """Delete the file. Call this after the result is written."""
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
            log.warning("%s: the unfinished search is not readable and begins again (%s)", self.path, error)
            return
        log.info("%s: continuing the unfinished search", self.path)
