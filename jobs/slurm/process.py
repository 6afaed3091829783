"""One process of a Slurm job: `python -m jobs.slurm.process SPEC`. Slurm's variables say which rank it is."""

from __future__ import annotations

import json
import socket
import sys

from jobs import environment
from jobs.backend import SITE
from jobs.plan.spec import TaskSpec
from jobs.slurm import KIND
from jobs.slurm.ids import JobId
from jobs.worker.place import Task
from jobs.worker.task import run_task
from trex.records.typed import decode_dataclass


def this_task() -> Task:
    """Return the rank, node and job of this process, read from the variables of its job step."""
    get = environment.get
    job = JobId(get("SLURM_JOB_ID"))
    if array := get("SLURM_ARRAY_JOB_ID"):
        job = JobId(array, int(get("SLURM_ARRAY_TASK_ID")))
    return Task(
        backend=KIND,
        job_id=str(job),
        rank=int(get("SLURM_PROCID", "0")),
        world=int(get("SLURM_NTASKS", "1")),
        local_rank=int(get("SLURM_LOCALID", "0")),
        node=get("SLURMD_NODENAME", socket.gethostname()),
        node_count=int(get("SLURM_JOB_NUM_NODES", "1")),
        restart=int(get("SLURM_RESTART_COUNT", "0")),
        cpus=int(get("SLURM_CPUS_PER_TASK", "0")) or environment.available_cpus(),
        cluster=get("SLURM_CLUSTER_NAME"),
    )


if __name__ == "__main__":
    run_task(decode_dataclass(TaskSpec, json.loads(sys.argv[1])), this_task(), SITE)
