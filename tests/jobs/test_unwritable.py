"""Whatever a file system refuses, a job ends with one message, a recorded state where possible, and code 74."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.plan.spec import TaskSpec
from tests.disks import SmallDisk, small_disk
from tests.pictures import write_noise
from trex.records.events import CheckpointSaved, read_events
from trex.records.job_state import JobState, State
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.records.typed import encode
from trex.training.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]

TEXT = """
name: mine
data: {dataset: mine, workers: 0, folders: {mine: mine}}
crops: {global_size: 16, local_size: 8, local_count: 1}
model: {encoder: resnet18}
method: {name: trex_plain, hidden_dim: 32, output_dim: 16}
optimizer: {lr: 0.05, warmup_epochs: 0}
train: {epochs: 100, batch_size: 4, precision: "off", log_every: 1, validate_every: 100}
checkpoint: {every_minutes: 0, keep: 1}
"""


class Home:
    """A working folder with the runs on a disk of their own. A checkpoint takes 90 MB."""

    def __init__(self, folder: Path, disk: SmallDisk) -> None:
        self.folder, self.disk = folder, disk
        self.run = RunDir(disk.folder / "mine")

    def start(self, *words: str, command: str = "train") -> subprocess.Popen[str]:
        line = [
            sys.executable,
            "-m",
            "jobs.cli",
            command,
            "mine.yaml",
            "--cluster",
            "local",
            f"runs={self.disk.folder}",
        ]
        outside = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*line, *words], cwd=self.folder, env=outside, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def started(self, job: subprocess.Popen[str]) -> None:
        """Wait for the first step."""
        deadline = time.monotonic() + 300
        while not MetricsLine.read_lines(self.run.metrics).records:
            assert job.poll() is None, job.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    (tmp_path / "mine.yaml").write_text(TEXT)
    write_noise(tmp_path / "mine", images=32, size=16)  # 16 steps per epoch: no save before the fault
    with small_disk(tmp_path / "disk", "size=300m,nr_inodes=1000") as disk:
        yield Home(tmp_path, disk)


def end(job: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = job.communicate(timeout=800)
    assert "Traceback" not in said
    return job.returncode, said


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_save_that_a_full_disk_refuses_at_a_stop_is_recorded_with_what_to_do(home: Home, processes: int) -> None:
    job = home.start("--processes", str(processes))
    home.started(job)
    home.disk.fill(leave=10_000_000)
    job.send_signal(signal.SIGTERM)
    code, said = end(job)
    state = JobState.read(home.run.state("train"))
    assert (code, state.state, state.code) == (74, State.FAILED, 74)
    # Rank 1 may ask for the stop before the signal has reached rank 0, whose signal is recorded.
    assert state.signal in ({"SIGTERM"} if processes == 1 else {"SIGTERM", None})
    assert state.reason in said
    for part in (
        f"disk full: cannot write {home.run.checkpoints}. The file system {home.disk.folder} has 10.0 MB free",
        " MB are needed. Delete files there.",
        "after step 0 are lost; there is no checkpoint. ",
        f"To continue, run: trex train {home.run.root} --cluster local",
    ):
        assert part in state.reason
    assert home.run.state_for_shell("train").read_text().splitlines()[1].startswith("failed ")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["full", pytest.param("read-only", marks=pytest.mark.long)])
def test_end_that_cannot_be_recorded_is_told_by_the_exit_code_and_the_command(home: Home, fault: str) -> None:
    job = home.start()
    home.started(job)
    {"full": home.disk.fill, "read-only": home.disk.make_read_only}[fault]()
    job.send_signal(signal.SIGTERM)
    code, said = end(job)
    assert code == 74
    assert f"{home.run.root}: a file of the job could not be written, and its log may lack the reason: " in said
    if fault == "full":  # the log may have lost its last lines too
        assert f"the file system {home.disk.folder} has " in said
    else:
        assert "cannot save step " in said
        assert f"read-only file system: cannot write {home.run.checkpoints}" in said
        assert f"To continue, run: trex train {home.run.root} --cluster local" in said
        home.disk.make_writable()
    assert JobState.read(home.run.state("train")).state == State.RUNNING


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    ["full", pytest.param("no inodes", marks=pytest.mark.long), pytest.param("read-only", marks=pytest.mark.long)],
)
def test_command_on_a_disk_that_takes_nothing_says_so(home: Home, fault: str) -> None:
    {"full": home.disk.fill, "no inodes": home.disk.use_up_inodes, "read-only": home.disk.make_read_only}[fault]()
    code, said = end(home.start())
    assert code == 74
    assert {"full": "disk full", "no inodes": "no inodes left", "read-only": "read-only file system"}[fault] in said
    assert f"The file system {home.disk.folder} has" in said


@pytest.mark.parametrize(
    "fault",
    [
        "full",
        pytest.param("no inodes", marks=pytest.mark.long),
        pytest.param("read-only", marks=pytest.mark.long),
        pytest.param("deleted", marks=pytest.mark.long),
    ],
)
def test_job_that_cannot_record_its_start_ends_before_it_computes(home: Home, fault: str) -> None:
    """As on Slurm, where the log is not written by the job itself."""
    home.run.jobs.mkdir(parents=True)
    faults = {
        "full": (home.disk.fill, "disk full: cannot write"),
        "no inodes": (home.disk.use_up_inodes, "no inodes left: cannot write"),
        "read-only": (home.disk.make_read_only, "read-only file system: cannot write"),
        "deleted": (lambda: shutil.rmtree(home.run.root), "this run folder is gone"),
    }
    make, words = faults[fault]
    make()
    spec = json.dumps(encode(TaskSpec("train", str(home.run.root))))
    done = subprocess.run(
        [sys.executable, "-m", "jobs.local.process", spec], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (74, "")
    (line,) = done.stdout.splitlines()
    assert words in line
    assert line.endswith(f"To continue, run: trex train {home.run.root} --cluster local")
    assert home.run.root.exists() == (fault != "deleted")


FEATURES = """
import sys, h5py, numpy as np
from pathlib import Path
from jobs.backend import SITE
from jobs.local.process import this_task
from jobs.plan.spec import TaskSpec
from jobs.worker import task
from trex.files import atomic_path

def write(spec, *_):
    with atomic_path(Path(spec.run) / "test.h5") as temporary, h5py.File(temporary, "w", locking=False) as file:
        rows = file.create_dataset("features", shape=(100_000,), dtype="f4")
        for row in range(0, 100_000, 1000):
            rows[row : row + 1000] = 1

task._work = write
task.run_task(TaskSpec("extract", sys.argv[1]), this_task(), SITE)
"""


@pytest.mark.parametrize(
    "left",
    [
        4096,
        pytest.param(8192, marks=pytest.mark.long),
        pytest.param(30_000, marks=pytest.mark.long),
        pytest.param(300_000, marks=pytest.mark.long),
    ],
)
def test_feature_file_that_a_full_disk_refuses_does_not_crash_the_job(home: Home, left: int) -> None:
    """HDF5 crashes when the objects of such a file are freed: the job would be requeued as killed by a signal."""
    home.run.jobs.mkdir(parents=True)
    home.disk.fill(leave=left)
    done = subprocess.run(
        [sys.executable, "-c", FEATURES, home.run.root], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (74, "")
    assert "disk full: cannot write" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("moved", [True, pytest.param(False, marks=pytest.mark.long)])
def test_run_folder_that_disappears_ends_the_job_and_stays_away(home: Home, moved: bool) -> None:
    job = home.start()
    home.started(job)
    if moved:
        home.run.root.rename(home.run.root.with_name("moved"))
    else:
        shutil.rmtree(home.run.root)
    code, said = end(job)
    assert code == 74
    assert said.count("this run folder is gone: it was deleted or moved") == 1
    assert not home.run.root.exists()


@pytest.mark.slow
def test_signals_during_a_save_neither_end_nor_repeat_it(home: Home) -> None:
    job = home.start()
    home.started(job)
    (rank,) = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    with contextlib.suppress(ProcessLookupError):
        while job.poll() is None:  # as Slurm repeats it, and much more often
            os.kill(int(rank), signal.SIGTERM)
            time.sleep(0.005)
    code, said = end(job)
    assert code == 75, said
    newest = Checkpoints(home.run.checkpoints).newest()
    assert newest is not None
    saves = [event for event in read_events(home.run.events).strict() if isinstance(event, CheckpointSaved)]
    assert [(event.step, event.reason) for event in saves] == [(newest.manifest.step, "stop")]
