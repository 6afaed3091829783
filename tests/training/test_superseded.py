"""A training that was stopped for a while, and whose run was taken over in the meantime, writes nothing more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.plan.spec import TaskSpec
from jobs.worker.lock import locked
from jobs.worker.place import Site, Task
from trex.errors import ExitCode
from trex.files import TEMPORARY
from trex.records.typed import encode

#: What another node is told by a scheduler that no longer sees the first one.
UNREACHABLE = Site(owner_is_alive=lambda *_: False, addresses=lambda _: [], has_queue=lambda _: False)


def content(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of each file of a run, apart from logs, and from files that a process has not finished."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".out")
    files = (path for path in files if TEMPORARY not in str(path.relative_to(folder)))
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("successor", ["runs", pytest.param("ended", marks=pytest.mark.long)])
def test_woken_training_ends_without_writing_after_another_start_took_over(
    tiny, saved_run, tmp_path: Path, successor: str
) -> None:
    run = saved_run(tiny("woken", "train.epochs=500", "train.log_every=1", "checkpoint.every_steps=1"))
    run.local_jobs.mkdir(parents=True)
    spec = json.dumps(encode(TaskSpec("train", str(run.root))))
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        first = subprocess.Popen(
            [sys.executable, "-m", "jobs.local.process", spec], env={**os.environ, "TREX_JOB": "first"}, stdout=output
        )
    try:
        while not (run.metrics.exists() and run.metrics.read_bytes().count(b"\n") > 2):
            assert first.poll() is None, log.read_text()
            time.sleep(0.1)
        first.send_signal(signal.SIGSTOP)
        task = Task("slurm", "second", rank=0, world=1, local_rank=0, node="n2", node_count=1, restart=0, cpus=1)
        with locked(run.lock("train"), task, UNREACHABLE):
            before = content(run.root)
            if successor == "runs":
                first.send_signal(signal.SIGCONT)
                assert first.wait(60) == ExitCode.SUPERSEDED, log.read_text()
                assert content(run.root) == before
        if successor == "ended":
            before = content(run.root)
            first.send_signal(signal.SIGCONT)
            assert first.wait(60) == ExitCode.SUPERSEDED, log.read_text()
            assert content(run.root) == before
    finally:
        first.kill()
        first.wait()
    said = "job second on" if successor == "runs" else "was deleted"
    assert said in log.read_text()
    assert "Traceback" not in log.read_text()
