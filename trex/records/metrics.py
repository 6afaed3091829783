"""`metrics.jsonl`: the curves of a training, one line per log interval and per validation.

Rank 0 of the training writes it (trex/training/metrics.py); `trex status`, the report and the model card read it. It
holds kept steps only: what an attempt wrote after its last checkpoint is cut off when the next one resumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from trex.records.base import Count, Record, Time
from trex.records.typed import Bounds

Phase = Literal["train", "validation"]
#: Larger values are written by nobody and would not fit a chart.
LARGEST = 1e30


@dataclass(frozen=True)
class MetricsLine(Record):
    """What was measured at one step."""

    FORMAT: ClassVar[int] = 1

    phase: Phase
    step: Count
    epoch: Annotated[float, Bounds(0, 1e9)]  #: epochs done, with a fraction within one
    #: By name. Training logs `loss`, `top1` (%), `lr`, `images_per_second`; validation `loss`, `top1`, `top5`; a method
    #: may add its own.
    values: dict[str, Annotated[float, Bounds(-LARGEST, LARGEST)]]
    time: Time
