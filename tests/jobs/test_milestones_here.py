"""Probes at milestones on this machine: a whole run with real processes, interrupted while a milestone is evaluated."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trex.errors import ExitCode
from trex.records.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]
TINY = """
name: curve
data: {dataset: digits_unseen, workers: 0}
crops: {global_size: 16, local_count: 0}
model: {encoder: resnet18}
method: {hidden_dim: 32, output_dim: 16, memory_bank_size: 64}
optimizer: {lr: 0.05, warmup_epochs: 0}
train: {epochs: 3, batch_size: 128, precision: "off", log_every: 2}
checkpoint: {milestone_epochs: 1}
extract: {datasets: [digits_unseen], resize: 16, crop: 16}
probe: {kinds: [exact-1shot], seeds: 2, at: milestones, at_datasets: [digits_unseen]}
"""


def start(home: Path) -> subprocess.Popen[str]:
    outside = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-m", "jobs.cli", "run", "tiny.yaml", "--cluster", "local", "--processes", "2"]
    return subprocess.Popen(words, cwd=home, env=outside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_run_probes_its_milestones_between_epochs_and_continues_after_an_interruption(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    run = RunDir(tmp_path / "runs" / "curve")
    with start(tmp_path) as job:
        deadline = time.monotonic() + 600
        while not (run.jobs / "extract-digits_unseen@epoch-0001.lock.1").exists():  # the extraction runs
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        job.send_signal(signal.SIGTERM)
        output, _ = job.communicate(timeout=800)
    assert job.returncode == ExitCode.INTERRUPTED, output
    assert "Traceback" not in output
    assert not list(run.jobs.glob("*.lock.*")), "nothing is left running"
    assert not (run.checkpoints / "epoch-0002-step-00000000").exists(), "the training waited"

    with start(tmp_path) as job:
        output, _ = job.communicate(timeout=800)
    assert job.returncode == ExitCode.DONE, output
    assert "could not be evaluated" not in output
    for epoch in (1, 2):
        made_by = {json.loads(path.read_text())["provenance"]["weights"] for path in run.at(epoch).probe_results()}
        assert len(run.at(epoch).probe_results()) == 2
        assert [label.partition(",")[0] for label in made_by] == [f"epoch-000{epoch}-step-00000000"]
    assert not list((run.root / "milestones").rglob("*.h5"))
    with (run.report / "milestones.csv").open(newline="") as file:
        assert [(row["epoch"], row["seed"]) for row in csv.DictReader(file)] == [
            ("1", "0"), ("1", "1"), ("2", "0"), ("2", "1"),
        ]  # fmt: skip
    assert "Transfer against epoch" in run.report_page.read_text()
