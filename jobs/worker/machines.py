"""Records what each attempt runs on: the nodes and GPUs of all its processes, its code, and versions."""

from __future__ import annotations

import json
import platform
import time
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from jobs.plan.code import code_of_this_process
from jobs.plan.spec import TaskSpec
from jobs.worker.place import Task
from trex.machine import cpu_name, device_name, library_versions, package_versions
from trex.records.environment import Environment, Node
from trex.records.events import record
from trex.records.run_dir import RunDir

if TYPE_CHECKING:
    from torch import device as Device


def machine_of(task: Task, device: Device | None) -> str:
    """Return what this process has, as a text for rank 0. `device` is None if it does not use PyTorch."""
    gpu = device_name(device).partition(": ")[2] if device is not None and device.type == "cuda" else None
    return json.dumps([task.node, gpu, cpu_name(), task.cpus])


def record_machines(run: RunDir, spec: TaskSpec, task: Task, device: Device | None, machines: Iterable[str]) -> None:
    """Add to the run's history what this attempt runs on.

    Args:
        run: the run.
        spec: the work of the job.
        task: the place of this process, which is rank 0.
        device: its device, or None if it does not use PyTorch.
        machines: the text of each rank (`machine_of`), in rank order.

    Raises:
        Unwritable: if the run folder is gone.
    """
    nodes: dict[str, Node] = {}
    gpus: dict[str, Counter[str]] = {}
    for name, gpu, cpu, cpus in map(json.loads, machines):
        before = nodes.get(name, Node(name, 0, {}, cpu, 0))
        gpus.setdefault(name, Counter()).update([gpu] if gpu else [])
        nodes[name] = Node(name, before.processes + 1, dict(gpus[name]), cpu, before.cpus + cpus)
    event = Environment(
        round(time.time(), 3), spec.stage, spec.keys, task.job_id, task.restart, tuple(nodes.values()),
        python=platform.python_version(), platform=platform.platform(), packages=package_versions(),
        libraries={} if device is None else library_versions(device), code=code_of_this_process(run),
    )  # fmt: skip
    record(event, run.events)
