"""The event `environment` in `events.jsonl`: what an attempt ran on, and with which code and versions.

Rank 0 of each job writes it when all ranks have met (jobs/worker/machines.py). The report and the model card show it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from trex.records.base import Count, Record, Time
from trex.records.code import Code
from trex.records.stage import Stage


@dataclass(frozen=True)
class Node:
    """What the processes of an attempt used on one node."""

    name: str
    processes: Count
    gpus: dict[str, Count]  #: how many GPUs of each name
    cpu: str  #: model of the CPUs
    cpus: Count  #: CPUs of all its processes, each of which has as many threads as CPUs


@dataclass(frozen=True)
class Environment(Record):
    """Machines, code and versions of one attempt."""

    FORMAT: ClassVar[int] = 2  # format 1 was the file environment.json
    KIND: ClassVar[str] = "environment"

    time: Time
    stage: Stage
    keys: tuple[str, ...]  #: keys of the job's state files, as in the attempt's start
    job: str
    restart: Count
    nodes: tuple[Node, ...]  #: in the order of their ranks
    python: str
    platform: str
    packages: dict[str, str | None]  #: version of each package; None if it is not installed
    libraries: dict[str, str]  #: versions of CUDA, cuDNN, NCCL and the driver; empty on CPUs
    code: Code

    @property
    def world(self) -> int:
        """Number of processes."""
        return sum(node.processes for node in self.nodes)

    @property
    def gpus(self) -> int:
        """Number of GPUs."""
        return sum(sum(node.gpus.values()) for node in self.nodes)

    @property
    def cpus(self) -> int:
        """Number of CPUs."""
        return sum(node.cpus for node in self.nodes)

    @property
    def devices(self) -> str:
        """What it computed on: `8 x NVIDIA H100`, or `16 CPUs (AMD EPYC 9654)`."""
        gpus, cpus = Counter[str](), Counter[str]()
        for node in self.nodes:
            gpus.update(node.gpus)
            cpus[node.cpu] += node.cpus
        if gpus:
            return ", ".join(f"{count} x {name}" for name, count in gpus.items())
        return ", ".join(f"{count} CPU{'s' * (count != 1)} ({name})" for name, count in cpus.items())

    def facts(self) -> dict[str, str]:
        """What can change a result or its speed if it differs between attempts, without what is not known."""
        found = {
            "devices": self.devices,
            "processes": str(self.world),
            "CPU": ", ".join(dict.fromkeys(node.cpu for node in self.nodes)) if self.gpus else "",
            "code": str(self.code),
            "Python": self.python,
            "platform": self.platform,
            **self.libraries,
            **{name: version or "" for name, version in self.packages.items()},
        }
        return {name: value for name, value in found.items() if value}


def values_of(attempts: Iterable[Environment]) -> dict[str, list[str]]:
    """The different values of each of the facts of some attempts, in the order in which they came up."""
    found: dict[str, dict[str, None]] = {}
    for attempt in attempts:
        for name, value in attempt.facts().items():
            found.setdefault(name, {})[value] = None
    return {name: list(values) for name, values in found.items()}
