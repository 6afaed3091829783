"""Jobs of several processes, one of which fails: its reason is printed, recorded and decides the exit code."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist
from torch import AcceleratorError

from jobs import environment
from jobs.backend import SITE
from jobs.local.process import of_rank
from jobs.plan.runs import open_config, save_config
from jobs.plan.spec import TaskSpec
from jobs.worker import task
from jobs.worker.attempts import Attempt, Outcome, record_failure
from jobs.worker.place import Task
from tests.pictures import write_noise
from trex.config import Config, load
from trex.datasets.registry import load_split
from trex.distributed import is_lost
from trex.errors import ExitCode
from trex.interruption import StopRequest
from trex.loading.order import epoch_order
from trex.records.job_state import JobState, State
from trex.records.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]

TEXT = """
data: {dataset: mine, workers: 0, folders: {mine: mine}}
crops: {global_size: 16, local_size: 8, local_count: 1}
model: {encoder: resnet18}
method: {hidden_dim: 32, output_dim: 16, memory_bank_size: 64}
optimizer: {lr: 0.05, warmup_epochs: 0}
train: {epochs: 40, batch_size: 8, precision: "off", log_every: 1}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A working folder with sixteen images per split, without Slurm on PATH."""
    (tmp_path / "pair.yaml").write_text(TEXT)
    write_noise(tmp_path / "mine", images=8, size=16)
    return tmp_path


@pytest.fixture
def outside(home: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": str(home / "no_slurm"), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without CUDA_VISIBLE_DEVICES."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


WORDS = [sys.executable, "-m", "jobs.cli", "train", "pair.yaml", "--cluster", "local", "--processes", "2"]


@pytest.mark.slow
def test_image_that_only_rank_1_cannot_read_is_named_by_the_command(home: Path, outside: dict[str, str]) -> None:
    config = load(home / "pair.yaml", Config, [f"data.folders={{mine: {home}/mine}}"])
    split = load_split("mine", "trainval", config.data)
    of_rank_1 = epoch_order(len(split), config.train.seed, 0)[4:8]
    path = home / "mine" / split.name(int(of_rank_1[0]))
    path.write_bytes(path.read_bytes()[:60])
    done = subprocess.run(WORDS, cwd=home, env=outside, capture_output=True, text=True, timeout=720)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert re.search(rf"rank 1 on \S+: .*{path.name}", said)
    assert "Traceback" not in said
    state = JobState.read(RunDir(home / "runs" / "run").state("train"))
    assert (state.state, state.code) == (State.FAILED, 2)
    assert path.name in state.reason
    status = subprocess.run([*WORDS[:3], "status", "run"], cwd=home, env=outside, capture_output=True, text=True)
    assert path.name in status.stdout


@pytest.mark.slow
def test_killed_rank_leaves_the_same_state_as_a_killed_job(home: Path, outside: dict[str, str]) -> None:
    """On Slurm, the batch script then requeues the job, up to the limit, just as if rank 0 had been killed."""
    lines = []
    with subprocess.Popen(
        WORDS, cwd=home, env=outside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        assert job.stdout is not None
        for line in job.stdout:
            lines.append(line)
            if "step" in line and "loss" in line:
                break
        os.kill(process_of_rank(1, home), signal.SIGKILL)
        lines += job.stdout.readlines()
    assert job.returncode == ExitCode.LOST
    said = "".join(lines)
    assert re.search(r"rank 1 on \S+, process \d+: has ended", said)
    assert "Traceback" not in said
    assert JobState.read(RunDir(home / "runs" / "run").state("train")).state == State.RUNNING


@pytest.mark.parametrize("code", [ExitCode.INTERRUPTED, ExitCode.FAULT])
def test_record_of_a_failed_rank_is_kept_if_rank_0_is_interrupted_because_of_it(tmp_path: Path, code: ExitCode) -> None:
    run, spec = RunDir(tmp_path), TaskSpec("train", str(tmp_path))
    ranks = [
        Task("slurm", "7", rank, world=2, local_rank=rank, node="n1", node_count=1, restart=0, cpus=1)
        for rank in (0, 1)
    ]
    attempt = Attempt(run, spec, ranks[0], SITE)
    with contextlib.ExitStack() as held:
        attempt.start(held)
        record_failure(run, spec, ranks[1], Outcome(ExitCode.USER_ERROR, "no such image"))
        assert attempt.failure_of_another() == Outcome(ExitCode.USER_ERROR, "rank 1 on n1: no such image")
        attempt.end(Outcome(code, "asked to stop"), "SIGTERM")
    expected = "rank 1 on n1: no such image" if code == ExitCode.INTERRUPTED else "asked to stop"
    state = JobState.read(run.state("train"))
    assert (state.state, state.reason) == (State.FAILED, expected)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[/torch/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:3"), True),
        (RuntimeError("[/torch/gloo/gloo/transport/tcp/pair.cc:339] writev [10.9.0.1]:4: No route to host"), True),
        (RuntimeError("[enforce fail at /gloo/gloo/transport/tcp/pair.cc:45] op.nbytes == 8. 4 vs 8"), False),
        (dist.DistBackendError("NCCL error: unhandled system error, ncclSystemError: Call to ibv_poll failed"), True),
        (dist.DistBackendError("NCCL error: got completion with error 12, opcode 1, vendor err 129"), True),
        (dist.DistBackendError("Watchdog caught collective operation timeout: ran for 600000 ms"), True),
        (dist.DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed."), True),
        (dist.DistBackendError("NCCL error: invalid usage, ncclInvalidUsage: Duplicate GPU detected"), False),
        (RuntimeError("a step timed out: connection reset by peer"), False),
        (OSError(110, "Connection timed out", "/data/i/igloo/sun_1.jpg"), False),
        (ValueError("/data/i/igloo/sun_1.jpg: a feature between rows 1 and 2 is not finite"), False),
    ],
)
def test_error_that_only_reports_the_loss_of_another_rank_is_recognized(error: Exception, lost: bool) -> None:
    assert is_lost(error) is lost


@pytest.mark.parametrize(("number", "failed"), [(214, True), (719, True), (700, False), (None, False)])
def test_failure_of_a_gpu_is_not_a_failure_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None, failed: bool
) -> None:
    """PyTorch's own error with CUDA's number, here raised by the work of a job."""
    error = AcceleratorError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be ...")
    error.error_code = number
    monkeypatch.setattr(task, "_work", lambda *_: (_ for _ in ()).throw(error))
    run, spec = RunDir(tmp_path), TaskSpec("train", str(tmp_path))
    place = Task("slurm", "7", 0, world=1, local_rank=0, node="n1", node_count=1, restart=0, cpus=1)
    attempt = Attempt(run, spec, place, SITE)
    with contextlib.ExitStack() as held:
        outcome = task._attempt(spec, run, place, SITE, StopRequest(), attempt, held)
        attempt.end(outcome, None)
    state = JobState.read(run.state("train"))
    assert (outcome.code, state.state) == ((ExitCode.LOST, State.RUNNING) if failed else (ExitCode.FAULT, State.FAILED))
    assert (state.reason == "a GPU failed (CUDA error: uncorrectable ECC error encountered) on n1") == failed


def test_failure_of_a_rank_is_not_recorded_for_another_start(tmp_path: Path) -> None:
    run, spec = RunDir(tmp_path), TaskSpec("train", str(tmp_path))
    place = Task("slurm", "7", 0, world=2, local_rank=0, node="n1", node_count=1, restart=1, cpus=1)
    with contextlib.ExitStack() as held:
        Attempt(run, spec, place, SITE).start(held)
        record_failure(run, spec, replace(place, rank=1, restart=0), Outcome(ExitCode.FAULT, "late"))
    assert JobState.read(run.state("train")).state == State.RUNNING


def process_of_rank(rank: int, home: Path) -> int:
    """Return the process id of a rank that works in `home`: the oldest process, because loader workers start later.

    Raises:
        ValueError: if there is none.
    """
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (path / "environ").read_bytes().split(b"\0")
            here = (path / "cwd").resolve() == home.resolve()
            if here and f"TREX_RANK={rank}".encode() in variables:
                found.append(int(path.name))
    return min(found)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("3", ("3",)), ("0,2", ("0", "2")), ("GPU-ab12, GPU-cd34", ("GPU-ab12", "GPU-cd34")), ("", ()), ("-1", ()),
     ("1,-1,2", ("1",))],
)  # fmt: skip
def test_chosen_gpus_are_the_ones_that_cuda_sees(
    fresh: pytest.MonkeyPatch, value: str, expected: tuple[str, ...]
) -> None:
    assert environment.chosen_gpus() is None
    fresh.setenv("CUDA_VISIBLE_DEVICES", value)
    assert environment.chosen_gpus() == expected


def test_chosen_gpus_are_passed_to_the_processes_on_this_machine(fresh: pytest.MonkeyPatch) -> None:
    assert of_rank("1", 0, 2, gpus=2)["CUDA_VISIBLE_DEVICES"] == "0,1", "the user chose none"
    assert of_rank("1", 0, 2, gpus=0)["CUDA_VISIBLE_DEVICES"] == ""
    fresh.setenv("CUDA_VISIBLE_DEVICES", "GPU-ab12,GPU-cd34")
    assert of_rank("1", 0, 2, gpus=2)["CUDA_VISIBLE_DEVICES"] == "GPU-ab12,GPU-cd34"


def test_more_processes_than_gpus_are_refused_before_anything_runs(home: Path, outside: dict[str, str]) -> None:
    done = subprocess.run(WORDS, cwd=home, env={**outside, "CUDA_VISIBLE_DEVICES": "3"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "2 processes for 1 GPU: expected one GPU per process. Use --processes 1" in done.stderr
    assert not (home / "runs").exists()


@pytest.mark.slow
def test_rank_that_is_killed_before_it_joins_ends_the_others_at_once(home: Path, outside: dict[str, str]) -> None:
    with subprocess.Popen(
        WORDS, cwd=home, env=outside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        while not (started := [*home.glob("runs/run/jobs/local/*_1_log.out")]):
            time.sleep(0.01)
        while True:
            with contextlib.suppress(ValueError):  # its log is there a moment before
                os.kill(process_of_rank(1, home), signal.SIGKILL)
                break
        began = time.monotonic()
        said, _ = job.communicate(timeout=60)
    assert f"rank 1 was killed by SIGKILL; its log is {started[0]}" in said
    assert started[0].exists()
    assert "a process ended before the ranks were connected: rank 1 was killed" in said
    assert (job.returncode, time.monotonic() - began < 25, "Traceback" in said) == (1, True, False)
    assert "rank 1 was killed by SIGKILL" in JobState.read(RunDir(home / "runs" / "run").state("train")).reason


@contextlib.contextmanager
def leased(path: Path) -> Iterator[None]:
    """Hold a lease on the file, in a process of its own since the kernel sends the holder a signal."""
    words = "import fcntl, signal, sys; signal.signal(signal.SIGIO, signal.SIG_IGN); file = open(sys.argv[1], 'r+');"
    words += "fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK); print('held', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", words, path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            yield
        finally:
            holder.kill()


@pytest.mark.slow
def test_signal_while_the_images_are_listed_ends_the_job_before_it_works(home: Path, outside: dict[str, str]) -> None:
    """A lease on a file takes the place of a slow file system: the kernel lets nobody open it for 45 s."""
    lists = home / "planes" / "fgvc-aircraft-2013b" / "data"
    (lists / "images").mkdir(parents=True)
    (lists / "variants.txt").write_text("707-320\n")
    (lists / "images_variant_trainval.txt").write_text("0034309 707-320\n")
    more = ["data.dataset=aircraft", f"data.folders.aircraft={home}/planes"]
    with contextlib.chdir(home):  # of a new run, the command itself would list the images before it starts
        save_config(*open_config("pair.yaml", more))
    with (
        leased(lists / "images_variant_trainval.txt"),
        subprocess.Popen(
            [*WORDS, *more], cwd=home, env=outside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as job,
    ):
        events = home / "runs/run/events.jsonl"
        while not (events.exists() and '"environment"' in events.read_text()):  # written after the ranks have met
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.05)
        time.sleep(5)
        job.send_signal(signal.SIGTERM)
        said, _ = job.communicate(timeout=60)
    assert job.returncode == 75, said
    assert "stopped before the work started" in said
    assert [path.name for path in home.glob("runs/run/jobs/local/*.out") if not path.stat().st_size] == []
    assert JobState.read(RunDir(home / "runs" / "run").state("train")).state == State.WANTS_REQUEUE
