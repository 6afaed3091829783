"""`metrics.jsonl`: the metrics of a training, one line per log interval and per validation.

Rank 0 of the training writes it (trex/training/metrics.py); `trex status`, the report and the model card read it.
Resuming from a checkpoint deletes the lines that were written after that checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from trex.files import require_may_write
from trex.records.base import Count, Record, Time
from trex.records.typed import Bounds
from trex.storage import make_folder

Phase = Literal["train", "validation"]
#: Largest absolute value. The training never writes larger values, and a chart could not show them.
LARGEST = 1e30
#: Metric of both phases: images that are broken and were skipped (`data.broken_images=skip`). Not written if it is 0.
SKIPPED = "skipped_images"


@dataclass(frozen=True)
class MetricsLine(Record):
    """Metrics of one step."""

    FORMAT: ClassVar[int] = 1

    phase: Phase
    step: Count
    epoch: Annotated[float, Bounds(0, 1e9)]  #: number of epochs done, with a fraction within an epoch
    #: Value of each metric. Training logs `loss`, `top1` (%), `lr` and `images_per_second`, which is the speed of the
    #: steps without validation and saves. Validation logs `loss`, `top1`, `top5` and, if it is measured, `knn` (%). A
    #: method may add others.
    values: dict[str, Annotated[float, Bounds(-LARGEST, LARGEST)]]
    time: Time


class MetricsFile:
    """Appends lines to `metrics.jsonl`, of which it is the only writer. Lines that cannot be written are kept.

    The first `position` bytes of the file followed by the lines `kept` are all metrics so far. Both belong into a
    checkpoint, so that a resumed run has each line once, also if its predecessor could not write some.

    After a failed write or fsync, nobody knows which of the lines since the last successful fsync are on disk. So all
    of them are kept until then, and after an error the file is cut at `position` and they are written again.
    """

    def __init__(self, path: Path, position: int = 0, kept: Iterable[str] = ()) -> None:
        """Continue with the metrics of a checkpoint. Call `write` once to delete the lines after `position`."""
        self._path = path
        self.position = position
        self.kept = list(kept)
        self._in_file = 0  # how many of the lines `kept` are in the file, if nothing has failed
        self._uncertain = True  # whether the file may hold something else after `position`
        self._end = position  # where the file ends, if nothing has failed
        self._errors = 0  # how many writes have failed

    def append(self, line: MetricsLine) -> None:
        """Append a line. Raises OSError if it cannot be written now; a later call writes it."""
        self.kept.append(line.to_line())
        self.write()

    def write(self, sync: bool = False) -> None:
        """Write what is missing in the file; with `sync`, also flush it to the disk and forget the lines `kept`.

        Raises:
            Unwritable: if the run folder is gone.
            OSError: if the lines cannot be written now; a later call writes them.
        """
        require_may_write()
        make_folder(self._path.parent)
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._write(file)
                if sync:
                    os.fsync(file)
                    self.position = os.lseek(file, 0, os.SEEK_END)
                    self._in_file = 0
                    self.kept.clear()
            finally:
                os.close(file)  # NFS reports a full disk here
        except OSError:
            self.doubt()
            raise

    def mark(self) -> tuple[int, int, int] | None:
        """Return a mark after the present lines, for `sync` and `synced`; None if some are not in the file."""
        if self._uncertain or self._in_file < len(self.kept):
            return None
        return self._errors, self._in_file, self._end

    def sync(self) -> None:
        """Flush the file to the disk; another thread may call this. Then call `synced`, or `doubt` if it has failed.

        Raises:
            OSError: if that fails.
        """
        file = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)

    def synced(self, mark: tuple[int, int, int]) -> None:
        """Forget the lines before a mark, because `sync` has succeeded since, unless a write has failed since."""
        errors, count, end = mark
        if errors == self._errors:
            self.position = end
            self._in_file -= count
            del self.kept[:count]

    def doubt(self) -> None:
        """Write all lines `kept` again at the next call of `write`, because `sync` has failed."""
        self._uncertain = True
        self._errors += 1

    def _write(self, file: int) -> None:
        if self._uncertain:
            self._in_file = 0
            self.position = min(self.position, os.fstat(file).st_size)
            os.ftruncate(file, self.position)
        os.lseek(file, 0, os.SEEK_END)
        rest = memoryview("".join(self.kept[self._in_file :]).encode())
        while rest:
            rest = rest[os.write(file, rest) :]
        self._in_file = len(self.kept)
        self._end = os.lseek(file, 0, os.SEEK_END)
        self._uncertain = False
