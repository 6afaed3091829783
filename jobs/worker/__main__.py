"""One process of a job of this machine: `python -m jobs.worker SPEC`, with its place in the environment. Started by
jobs/local.py; on Slurm submitit calls `run_task` itself.
"""

from __future__ import annotations

import json
import sys

from jobs.plan.spec import TaskSpec
from jobs.worker.task import run_task
from trex.records.typed import decode_dataclass

if __name__ == "__main__":
    run_task(decode_dataclass(TaskSpec, json.loads(sys.argv[1])))
