"""Hangs of a real training end: a loader process, a rank or a file system that does not go on, and a stop meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.jobs.test_ranks import process_of_rank
from tests.refusing import library
from tests.training.test_resume import logged_beyond, steps_saved
from trex.config import Config
from trex.errors import ExitCode
from trex.records.job_state import JobState, State
from trex.records.run_dir import RunDir

pytestmark = pytest.mark.slow

LONG = ("train.epochs=50", "train.log_every=1", "limits.step_seconds=6")


class Job:
    """A training that runs until the test ends it."""

    def __init__(self, config: Config, processes: int, folder: Path, **variables: str) -> None:
        self.run, self.folder = RunDir.of(config), folder
        words = [sys.executable, "-m", "jobs.cli", "train", str(self.run.root), "--cluster", "local"]
        self.process = subprocess.Popen(
            [*words, "--processes", str(processes)], cwd=folder, env={**os.environ, **variables},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def wait_for_steps(self, count: int = 2) -> None:
        deadline = time.monotonic() + 120
        while not logged_beyond(self.run, count - 1):
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def worker(self, rank: int) -> int:
        """The newest process of a rank: its loader process."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                here = (path / "cwd").resolve() == self.folder.resolve()
                if here and f"TREX_RANK={rank}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    began = int((path / "stat").read_text().rpartition(")")[2].split()[19])
                    found.append((began, int(path.name)))  # numbers of processes begin again at some point
        assert len(found) >= 4, "a rank, the tracker, the server, and the loader process"
        return max(found)[1]

    def end(self, seconds: float = 60) -> tuple[int, str]:
        """The exit code and everything that was printed. Fails if the job does not end by itself."""
        said, _ = self.process.communicate(timeout=seconds)
        assert "Traceback" not in said, said
        return self.process.returncode, said

    def log(self, rank: int) -> str:
        (path,) = self.run.local_jobs.glob(f"*_{rank}_log.out")
        return path.read_text()


@pytest.fixture
def start(tiny, saved_run, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def begin(processes: int, *settings: str, **variables: str) -> Job:
        config = tiny("hangs", *LONG, *settings)
        saved_run(config)
        jobs.append(Job(config, processes, tmp_path, **variables))
        return jobs[-1]

    yield begin
    for job in jobs:
        for rank in range(2):
            with contextlib.suppress(ValueError, ProcessLookupError):
                os.kill(process_of_rank(rank, tmp_path), signal.SIGKILL)
        job.process.kill()
        job.process.communicate()


def last_step(run: RunDir) -> int:
    return steps_saved(run)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_stop_is_heard_while_a_batch_is_waited_for(start, processes: int) -> None:
    """With two ranks, the other one has its batch already, and must not begin the step."""
    job = start(processes, "data.workers=1", "limits.step_seconds=600")
    job.wait_for_steps()
    os.kill(job.worker(processes - 1), signal.SIGSTOP)
    time.sleep(3)  # until the batches that were made ahead are used up
    job.process.send_signal(signal.SIGTERM)
    code, said = job.end(20)
    assert code == 75, said
    saved = re.search(r"saved at step (\d+)", said)
    assert saved is not None
    assert int(saved[1]) == last_step(job.run) >= 2
    assert JobState.read(job.run.state("train")).state == State.WANTS_REQUEUE


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
def test_stopped_loader_process_is_named_and_the_last_step_is_saved(start, processes: int) -> None:
    job = start(processes, "data.workers=1")
    job.wait_for_steps()
    worker = job.worker(processes - 1)
    os.kill(worker, signal.SIGSTOP)
    code, said = job.end()
    who = r"rank 1 on \S+: " if processes == 2 else ""
    assert re.search(rf"{who}loader process {worker} has made no batch in 6 s; it is stopped \(SIGSTOP\)", said), said
    assert (code, last_step(job.run) >= 2) == (1, True)
    state = JobState.read(job.run.state("train"))
    assert (state.state, f"loader process {worker}" in state.reason) == (State.FAILED, True)


@pytest.mark.long
def test_killed_loader_process_is_named_at_once(start) -> None:
    job = start(1, "data.workers=2", "limits.step_seconds=600")
    job.wait_for_steps()
    worker = job.worker(0)
    os.kill(worker, signal.SIGKILL)
    code, said = job.end(20)
    assert f"loader process {worker} has ended by SIGKILL, as when memory runs out" in said, said
    assert (code, last_step(job.run) >= 2) == (1, True)


@pytest.mark.long
def test_long_folder_for_temporary_files_does_not_matter(start, tmp_path: Path) -> None:
    long = tmp_path / ("y" * 125)
    long.mkdir(parents=True)
    before = left_over_folders()
    job = start(1, "data.workers=2", "train.epochs=1", "limits.step_seconds=600", TMPDIR=str(long))
    code, said = job.end(120)
    assert code == 0, said
    assert left_over_folders() <= before
    assert list(long.glob("*")) == []


def left_over_folders() -> set[Path]:
    """Return the folders of sockets on which nobody listens. Those of other tests that run now are in use."""
    in_use = Path("/proc/net/unix").read_text()
    sockets = Path("/tmp").glob("trex-*/listener-*")
    return {path.parent for path in sockets if str(path) not in in_use}


@pytest.mark.long
def test_stopped_rank_is_named(start) -> None:
    job = start(2)
    job.wait_for_steps()
    stopped = process_of_rank(1, job.folder)
    os.kill(stopped, signal.SIGSTOP)
    deadline = time.monotonic() + 40
    while f"process {stopped}: does not answer" not in job.log(0):
        assert time.monotonic() < deadline, job.log(0)
        time.sleep(0.1)
    assert re.search(rf"rank 1 on \S+, process {stopped}: does not answer", job.log(0))
    assert "another process" not in job.log(0)


@pytest.mark.long
def test_rank_that_waits_for_a_file_for_ever_ends_itself_and_leaves_its_stack(start, tmp_path: Path) -> None:
    """As a read from a file system that hangs: without loader processes, the rank itself reads the images."""
    hang = tmp_path / "hang"
    job = start(2, LD_PRELOAD=str(library(tmp_path)), REFUSE_PATH=".png", REFUSE_HANG=str(hang))
    job.wait_for_steps()
    hang.touch()
    code, said = job.end()
    assert code == ExitCode.LOST
    assert "a step takes more than 6 s; what this process is doing" in job.log(1)
    assert "a step took more than 6 s (limits.step_seconds" in said
    assert "in read" in job.log(1), job.log(1)
    state = JobState.read(job.run.state("train"))
    assert (state.state, "a step took more than 6 s" in state.reason) == (State.RUNNING, True)
