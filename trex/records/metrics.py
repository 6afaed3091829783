"""`metrics.jsonl`: the metrics of a training, one line per log interval and per validation.

Rank 0 of the training writes it (trex/training/metrics.py); `trex status`, the report and the model card read it.
Resuming from a checkpoint deletes the lines that were written after that checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from trex.records.base import Count, Record, Time
from trex.records.typed import Bounds

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
    #: Value of each metric. Training logs `loss`, `top1` (%), `lr` and `images_per_second`, validation logs `loss`,
    #: `top1`, `top5` and, if it is measured, `knn` (%). A method may add others.
    values: dict[str, Annotated[float, Bounds(-LARGEST, LARGEST)]]
    time: Time
