"""Metrics of a run. metrics.jsonl is the record; TensorBoard and the log lines show copies of it."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trex.distributed import Ranks
from trex.images.decode import ImageFault
from trex.model.loss import Output
from trex.records.metrics import LARGEST, MetricsFile, MetricsLine, Phase
from trex.records.run_dir import RunDir
from trex.storage import unwritable

if TYPE_CHECKING:
    from trex.training.tensorboard import Board

log = logging.getLogger(__name__)


class Meter:
    """Sums the loss and the method's metrics since the last log line.

    The sums stay on the device, so that adding never waits for the GPU.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._sums: dict[str, Tensor] = {}  # (2,) float64 per name: sum of the values, number of values
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=ranks.device)

    def add(self, step: int, output: Output) -> None:
        """Add one step. Every rank must add the same metrics."""
        loss = output.loss.detach()
        for name, values in {"loss": loss, **output.metrics}.items():
            total = values.double().sum()
            entry = torch.stack([total, torch.full_like(total, values.numel())])
            self._sums[name] = self._sums[name] + entry if name in self._sums else entry
        bad = ~torch.isfinite(loss) & (self._first_bad < 0)
        self._first_bad = torch.where(bad, torch.full_like(self._first_bad, step), self._first_bad)

    def take(self) -> dict[str, float]:
        """Return the means over all ranks since the last call: the loss, as `loss`, and each metric.

        Waits for the device. Every rank must call it.
        """
        totals, self._sums = self._ranks_sums(), {}
        return {name: value / count for name, (value, count) in totals.items()}

    def total(self) -> dict[str, Tensor]:
        """Return the sums for a checkpoint. Every rank must call it.

        Returns:
            By name, a (2,) float64 CPU tensor: the sum and the number of values over all ranks.
        """
        return {name: torch.tensor(pair, dtype=torch.float64) for name, pair in self._ranks_sums().items()}

    def restore(self, total: dict[str, Tensor]) -> None:
        """Continue from the sums of a checkpoint. Rank 0 takes them; all other ranks start at 0."""
        device = self._ranks.device
        self._sums = {
            name: (pair if self._ranks.is_main else torch.zeros_like(pair)).to(device) for name, pair in total.items()
        }

    def _ranks_sums(self) -> dict[str, list[float]]:
        if not self._sums:
            return {}
        stacked: list[list[float]] = self._ranks.sum_(torch.stack(list(self._sums.values()))).tolist()
        return dict(zip(self._sums, stacked, strict=True))

    def first_not_finite(self) -> int:
        """Return this rank's first step, counted from 0, whose loss was not finite, or -1. Waits for the device."""
        return int(self._first_bad.item())


class BrokenImages:
    """The training images of this rank that are broken and replaced. Each is logged once."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def add(self, faults: Iterable[ImageFault]) -> None:
        """Add the broken images of a batch."""
        for fault in faults:
            if str(fault.path) not in self._names:
                self._names.add(str(fault.path))
                log.warning("broken image: the next takes its place: %s", fault.brief)

    def count(self, ranks: Ranks) -> int:
        """The number of different images of all ranks since the training started or resumed. Every rank must call."""
        texts = ranks.gather_texts("\n".join(sorted(self._names)))
        return len({name for text in texts for name in text.split("\n") if name})


class Curves:
    """Writes the metrics of a run. Only rank 0 writes; on all other ranks these functions do nothing.

    An error of the file system costs a warning: the lines are kept and written later, or in the end logged.
    """

    def __init__(self, run: RunDir, ranks: Ranks) -> None:
        self._run = run
        self._active = ranks.is_main
        self._file = MetricsFile(run.metrics)
        self._board: Board | None = None
        self._failed = False  # whether the last write of metrics.jsonl failed
        self._mark: tuple[int, int, int] | None = None  # after the lines of the save in the background
        self._synced = False  # whether the file was flushed since

    def open(self, position: int, step: int, kept: Sequence[str] = ()) -> None:
        """Start writing.

        Args:
            position: where to continue in metrics.jsonl, in bytes. Lines that were written after the last checkpoint
                are removed.
            step: steps done so far.
            kept: lines that are in the checkpoint because they could not be written before (`unwritten`).
        """
        if not self._active:
            return
        self._file = MetricsFile(self._run.metrics, position, kept)
        self._try(self._file.write)
        from trex.training.tensorboard import Board

        with self._copying():
            self._board = Board(self._run.tensorboard, step)

    @property
    def position(self) -> int:
        """Where metrics.jsonl ends, in bytes: everything before is on disk, so that a checkpoint can refer to it."""
        self._mark, self._synced = None, False
        if self._active:
            self._try(lambda: self._file.write(sync=True))
        return self._file.position

    def position_now(self) -> int:
        """Where metrics.jsonl ended when it was last flushed, without waiting for the disk; the rest is `unwritten`.

        Call `flush` afterwards, in the thread that writes the checkpoint.
        """
        if self._mark is not None and self._synced:
            self._file.synced(self._mark)
        elif self._mark is not None:
            self._file.doubt()
        self._mark, self._synced = (self._file.mark() if self._active else None), False
        return self._file.position

    def flush(self) -> None:
        """Flush metrics.jsonl to the disk, so that the next checkpoints need not hold the lines that are in it now.

        An error is no loss: the checkpoint holds the lines.
        """
        if self._mark is not None:
            with contextlib.suppress(OSError):
                self._file.sync()
                self._synced = True

    @property
    def unwritten(self) -> list[str]:
        """The lines that belong after `position` and are not known to be on disk."""
        return list(self._file.kept)

    def write(self, phase: Phase, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Append one line of metrics and copy its values to TensorBoard. Values that are not finite are left out."""
        if not self._active:
            return
        kept = {name: float(value) for name, value in values.items() if abs(value) <= LARGEST and math.isfinite(value)}
        if left_out := [f"{name} is {values[name]}" for name in values if name not in kept]:
            log.warning("step %d, %s: %s; left out of the metrics", step, phase, ", ".join(left_out))
        line = MetricsLine(phase, step, epoch, kept, round(time.time(), 3))
        self._try(lambda: self._file.append(line))
        with self._copying():
            if self._board is not None:
                self._board.write(step, {f"{phase}/{name}": value for name, value in kept.items()})

    def close(self) -> None:
        """Close TensorBoard's file. Lines of metrics that still cannot be written go to the log."""
        if self._board is not None:
            self._board.close()
            self._board = None
        if self._failed:
            self._try(self._file.write)
        if self._failed:
            log.warning("lines that %s lacks:\n%s", self._run.metrics, "".join(self._file.kept).rstrip())

    def _try(self, write: Callable[[], None]) -> None:
        """Write to metrics.jsonl. The first failure in a row is logged, and so is the end of the failures."""
        try:
            write()
        except OSError as error:
            if not self._failed:
                log.warning(
                    "%s The training continues; the lines of this file are kept, and written as soon as possible",
                    unwritable(error, self._run.metrics),
                )
            self._failed = True
            return
        if self._failed:
            log.info("%s can be written again; no line is missing", self._run.metrics)
        self._failed = False

    @contextlib.contextmanager
    def _copying(self) -> Iterator[None]:
        """Write for TensorBoard. After a failure, nothing more is written until the next start."""
        try:
            yield
        except OSError as error:
            log.warning(
                "%s The training continues without TensorBoard; metrics.jsonl has the same numbers",
                unwritable(error, self._run.tensorboard),
            )
            if self._board is not None:
                self._board.close()
            self._board = None
