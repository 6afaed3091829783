"""One process of a job on this machine: `python -m jobs.local.process SPEC`. Its rank is in environment variables."""

from __future__ import annotations

import json
import os
import socket
import sys

from jobs import environment
from jobs.backend import SITE
from jobs.local import KIND
from jobs.plan.spec import TaskSpec
from jobs.worker.place import Task
from jobs.worker.task import run_task
from trex.records.typed import decode_dataclass

_JOB, _RANK, _WORLD = "TREX_JOB", "TREX_RANK", "TREX_WORLD"


def of_rank(job: str, rank: int, world: int, gpus: int) -> dict[str, str]:
    """Return the environment of one process, which sees the GPUs that the user chose, or else the first `gpus`."""
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(gpus)))}
    return {**devices, **environment.variables(), _JOB: job, _RANK: str(rank), _WORLD: str(world)}


def this_task() -> Task:
    """Return the rank and job of this process. A process that was not started as a rank is a job of one process."""
    world, rank = int(environment.get(_WORLD, "1")), int(environment.get(_RANK, "0"))
    return Task(
        backend=KIND,
        job_id=environment.get(_JOB, f"local-{os.getpid()}"),
        rank=rank,
        world=world,
        local_rank=rank,
        node=socket.gethostname(),
        node_count=1,
        restart=0,
        cpus=max(environment.available_cpus() // world, 1),
    )


if __name__ == "__main__":
    run_task(decode_dataclass(TaskSpec, json.loads(sys.argv[1])), this_task(), SITE)
