"""The command line and the start of jobs: what a user waits for, and what each process of a job does before its work.

Each command is a process of its own, whose seconds of CPU are counted, with those of its children.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tools.bench.page import ROOT
from trex.config import Config, load, to_yaml
from trex.files import write_text
from trex.records.events import AttemptStarted
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.records.stage import STAGES
from trex.records.submission import Submission

ROUNDS = 5
RUNS, LINES = 200, 100
TREX = [sys.executable, "-m", "jobs.cli"]


def write_runs(folder: Path, count: int = RUNS) -> None:
    """Write run folders as a cluster leaves them: a config, metrics, submissions and starts of jobs, no checkpoints."""
    config = load(ROOT / "configs" / "trex_star.yaml", Config)
    for number in range(count):
        run = RunDir(folder / f"run{number:03d}")
        write_text(run.config, to_yaml(config))
        now = time.time() - 3600.0
        for step in range(LINES):
            values = {"loss": 7.0 - step / 100, "top1": step / 10, "lr": 0.1, "images_per_second": 3000.0}
            MetricsLine("train", 50 * (step + 1), step / 100, values, now + step).append(run.metrics)
        for part in range(6):
            stage, job = STAGES[part % 4], f"{1000 * number + part}"
            jobs = {"train" if stage == "train" else f"{stage}-{part}": job}
            Submission(
                now, "slurm", stage, jobs, "", f"trex {number}-{part}", f"{run.jobs}/{stage}.sh", "code-1", ""
            ).append(run.submissions)
        for restart in range(3):
            AttemptStarted(
                now + restart, "train", ("train",), f"{1000 * number}", restart, "nothing", 1, "node1", 4
            ).append(run.events)
