"""Curves of a run: metrics.jsonl (the truth), TensorBoard and readable log lines (copies of it)."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trex.distributed import Ranks
from trex.errors import TrexError
from trex.records.metrics import LARGEST, MetricsLine, Phase
from trex.records.run_dir import RunDir

log = logging.getLogger(__name__)


class Meter:
    """Sums of loss and hits since the last log line, kept on the device: adding never waits for the GPU."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._sums = torch.zeros(3, dtype=torch.float64, device=ranks.device)  # loss, hits, rows
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=ranks.device)

    def add(self, step: int, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count one step: scalar `loss`, `logits` (n_crops * B, K), `labels` (B,)."""
        rows = logits.shape[0]
        hits = (logits.detach().argmax(dim=1).view(-1, labels.shape[0]) == labels).sum()
        loss = loss.detach()
        self._sums += torch.stack([loss.double() * rows, hits.double(), torch.full_like(loss, rows).double()])
        bad = ~torch.isfinite(loss) & (self._first_bad < 0)
        self._first_bad = torch.where(bad, torch.full_like(self._first_bad, step), self._first_bad)

    def take(self) -> tuple[float, float]:
        """Mean loss and accuracy in % over all ranks since the last call. Waits for the device; every rank calls it.

        Raises:
            TrexError: if a loss since then was not finite.
        """
        self.require_finite()
        loss, hits, rows = self._ranks.sum_(self._sums).tolist()
        self._sums = torch.zeros_like(self._sums)
        return loss / max(rows, 1), 100.0 * hits / max(rows, 1)

    def total(self) -> Tensor:
        """The sums so far over all ranks, (3,) float64 on the CPU, for a checkpoint; every rank calls it."""
        return self._ranks.sum_(self._sums.clone()).cpu()

    def restore(self, total: Tensor) -> None:
        """Go on from a checkpoint's sums: rank 0 holds them, the others begin at 0."""
        self._sums = total.to(self._sums.device) if self._ranks.is_main else torch.zeros_like(self._sums)

    def require_finite(self) -> None:
        """Raise TrexError on every rank if the loss of any rank was not finite. Waits for the device."""
        first = self._ranks.maximum(int(self._first_bad.item()))
        if first >= 0:
            raise TrexError(
                f"the loss of step {first} is not finite: the run ends here and its last checkpoint is from before "
                f"that. Usual causes: a learning rate that is too high (optimizer.lr), too short a warm-up, fp16 "
                f"overflow (train.precision=bf16)."
            )


class Curves:
    """Writes one rank's metrics; on every rank but the main one it writes nothing."""

    def __init__(self, run: RunDir, ranks: Ranks) -> None:
        self._run = run
        self._active = ranks.is_main
        self._board: Any = None

    def open(self, position: int, step: int) -> None:
        """Begin writing after `position` bytes: what an attempt wrote after its last checkpoint is taken back."""
        if not self._active:
            return
        self._run.metrics.parent.mkdir(parents=True, exist_ok=True)
        self._run.metrics.touch()
        if self._run.metrics.stat().st_size > position:
            os.truncate(self._run.metrics, position)
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(self._run.tensorboard), purge_step=step)

    @property
    def position(self) -> int:
        """Bytes of metrics.jsonl so far; flushed to disk, so that a checkpoint may name it."""
        if not self._active:
            return 0
        with self._run.metrics.open("rb") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def write(self, phase: Phase, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Append one line of metrics and copy its numbers to TensorBoard. What is not finite is left out."""
        if not self._active:
            return
        kept = {name: float(value) for name, value in values.items() if abs(value) <= LARGEST and math.isfinite(value)}
        if left_out := [f"{name} is {values[name]}" for name in values if name not in kept]:
            log.warning("step %d, %s: %s; left out of the metrics", step, phase, ", ".join(left_out))
        MetricsLine(phase, step, epoch, kept, round(time.time(), 3)).append(self._run.metrics)
        for name, value in kept.items():
            self._board.add_scalar(f"{phase}/{name}", value, step)
        self._board.flush()

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._board is not None:
            self._board.close()
            self._board = None


def duration(seconds: float) -> str:
    """Seconds as people say them: `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    seconds = max(round(seconds), 0)
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
