"""`environment.json`: machine and versions of a run's newest attempt. Rank 0 of a job writes it (jobs/worker/task.py);
the report and the model card show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trex.records.base import Count, Record, Time


@dataclass(frozen=True)
class Environment(Record):
    """What an attempt ran on."""

    FORMAT: ClassVar[int] = 1

    time: Time
    job: str
    node: str  #: of rank 0
    world: Count  #: processes
    device: str  #: `cuda: NVIDIA H100`, `cpu: x86_64`
    threads: Count  #: of PyTorch, per process
    python: str
    platform: str
    packages: dict[str, str | None]  #: version of each; None where it is not installed
