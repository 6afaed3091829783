"""`environment.json`: machine and library versions of a run's newest attempt.

Rank 0 of each job writes it (jobs/worker/task.py); the report and the model card show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trex.records.base import Count, Record, Time


@dataclass(frozen=True)
class Environment(Record):
    """The machine and the library versions that an attempt ran with."""

    FORMAT: ClassVar[int] = 1

    time: Time
    job: str
    node: str  #: node of rank 0
    world: Count  #: number of processes
    device: str  #: such as `cuda: NVIDIA H100`, `cpu: x86_64`
    threads: Count  #: PyTorch's threads per process
    python: str
    platform: str
    packages: dict[str, str | None]  #: version of each package; None if it is not installed
