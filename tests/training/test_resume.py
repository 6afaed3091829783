"""An interrupted run ends bit for bit like a run that was never interrupted."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pictures import write_noise
from tests.stopping import StopAfter
from tests.training.conftest import assert_same_bits
from trex import machine
from trex.config import Config
from trex.distributed import Ranks
from trex.errors import Interrupted, ResumeRefused
from trex.interruption import StopRequest
from trex.records.events import CheckpointSaved, TrainingResumed, read_events
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.training import checkpoint
from trex.training.checkpoint import Checkpoints
from trex.training.trainer import train


def final_state(run: RunDir) -> dict:
    newest = Checkpoints(run.checkpoints).newest()
    assert newest is not None
    assert newest.finished
    return newest.load()


def finish(run: RunDir, config: Config) -> None:
    train(run, config, Ranks(), StopRequest())


@pytest.mark.slow
def test_run_interrupted_after_any_step_ends_with_the_same_bits(tiny, saved_run) -> None:
    torch.set_num_threads(1)
    reference = tiny("reference")
    finish(saved_run(reference), reference)
    expected = final_state(RunDir.of(reference))
    steps = expected["position"]["global_step"]
    config = tiny("interrupted")
    run = saved_run(config)
    interruptions = 0
    for checks in [3, 1, 5, 4, 2, 6] * steps:  # 1 and 2 stop the run again before it does a step
        try:
            train(run, config, Ranks(), StopAfter(checks))
            break
        except Interrupted:
            interruptions += 1
    assert interruptions > steps / 3
    assert_same_bits(expected, final_state(run))
    assert curves(RunDir.of(reference)) == curves(run)


def curves(run: RunDir) -> list[tuple]:
    """Return all metrics of a run except times and speeds."""
    lines = MetricsLine.read_lines(run.metrics).strict()
    return [(line.phase, line.step, line.epoch, line.values | {"images_per_second": 0.0}) for line in lines]


@pytest.mark.slow
def test_finished_run_does_nothing_when_run_again(tiny, saved_run) -> None:
    config = tiny("finished", "train.epochs=1")
    run = saved_run(config)
    finish(run, config)
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*") if path.is_file()}
    finish(run, config)
    assert before == {path: path.stat().st_mtime_ns for path in run.root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_resume_with_another_config_is_refused_and_names_what_changed(tiny, saved_run) -> None:
    config = tiny("changed")
    run = saved_run(config)
    with pytest.raises(Interrupted):
        train(run, config, Ranks(), StopAfter(3))
    with pytest.raises(ResumeRefused, match=r"optimizer.lr: was 0.05, is now 0.1"):
        finish(run, tiny("changed", "optimizer.lr=0.1"))


@pytest.mark.slow
def test_resume_on_other_images_is_refused(tiny, saved_run, tmp_path: Path) -> None:
    write_noise(tmp_path / "images", images=6, size=20)
    config = tiny("moved", "data.dataset=mine", f"data.folders.mine={tmp_path}/images", "train.batch_size=4")
    run = saved_run(config)
    with pytest.raises(Interrupted):
        train(run, config, Ranks(), StopAfter(3))
    (tmp_path / "images/train/a/0.png").rename(tmp_path / "images/train/b/9.png")
    with pytest.raises(ResumeRefused, match="training images"):
        finish(run, config)


@pytest.mark.slow
def test_clocks_that_are_wrong_change_nothing(tiny, saved_run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose clock is a day behind continues, and the server of the files dates new files before old ones."""
    reference = tiny("reference")
    finish(saved_run(reference), reference)
    config = tiny("behind", "checkpoint.every_steps=2", "checkpoint.keep=3")
    run = saved_run(config)
    with pytest.raises(Interrupted):
        train(run, config, Ranks(), StopAfter(9))
    stopped = steps_saved(run)
    for hours, path in enumerate(sorted(run.root.rglob("*"))):  # the newest checkpoint is the oldest
        os.utime(path, (time.time() + 86400 - 3600 * hours,) * 2)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 86400)
    finish(run, config)
    assert_same_bits(final_state(RunDir.of(reference)), final_state(run))
    assert curves(RunDir.of(reference)) == curves(run)
    events = read_events(run.events).strict()
    assert [event.step for event in events if isinstance(event, TrainingResumed)] == [stopped]
    saves = [event for event in events if isinstance(event, CheckpointSaved)]
    assert [event.step for event in saves] == sorted(event.step for event in saves)
    assert min(event.seconds for event in saves) >= 0


@pytest.mark.slow
def test_other_versions_are_named_and_the_training_continues(
    tiny, saved_run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny("upgraded", "train.epochs=1")
    run = saved_run(config)
    for checks in (3, 2):
        with pytest.raises(Interrupted):
            train(run, config, Ranks(), StopAfter(checks))
    assert "the machine is not" not in caplog.text
    now = machine.package_versions()
    monkeypatch.setattr(machine, "package_versions", lambda: {**now, "torch": "9.0", "h5py": None})
    finish(run, config)
    assert (
        f"the machine is not the one of the checkpoint: torch 9.0 (was {now['torch']}), h5py not installed (was "
        f"{now['h5py']}). The result may differ in its last bits"
    ) in caplog.text


def _resumes_blind(ranks: Ranks, config: Config) -> list[str]:
    """Train, while the file system does not show the checkpoints to rank 1. Return the states that this rank read."""
    opened: list[str] = []
    read = checkpoint.read_file

    def seen(path: Path) -> bytes:
        opened.append(path.parent.name)
        if ranks.rank == 1:
            raise FileNotFoundError(path)
        return read(path)

    checkpoint.read_file = seen
    train(RunDir.of(config), config, ranks, StopRequest())
    return opened


@pytest.mark.slow
def test_only_rank_0_reads_the_checkpoint_and_once_and_the_others_need_not_see_it(tiny, saved_run, on_ranks) -> None:
    config = tiny("blind", "train.epochs=1", "train.allow_world_change=true")
    run = saved_run(config)
    with pytest.raises(Interrupted):
        train(run, config, Ranks(), StopAfter(3))
    assert on_ranks(2, _resumes_blind, config) == [["epoch-0000-step-00000002"], []]
    assert final_state(run)["position"]["global_step"] == 7


def command(config: Config, processes: int, workers: int) -> list[str]:
    return [
        sys.executable, "-m", "jobs.cli", "train", str(RunDir.of(config).root), "--cluster", "local",
        "--processes", str(processes), f"data.workers={workers}",
    ]  # fmt: skip


def run_to_end(config: Config, processes: int, workers: int = 0) -> None:
    done = subprocess.run(command(config, processes, workers), capture_output=True, text=True, timeout=840)
    assert done.returncode == 0, done.stdout + done.stderr


def steps_saved(run: RunDir) -> int:
    events = [event for event in read_events(run.events).strict() if isinstance(event, CheckpointSaved)]
    return max((event.step for event in events), default=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("processes", "epochs", "signals"),  # enough steps for every signal, also on a fast machine
    [
        pytest.param(1, 3, [signal.SIGTERM, signal.SIGKILL], marks=pytest.mark.long),
        (2, 3, [signal.SIGTERM, signal.SIGKILL]),
        pytest.param(2, 4, [signal.SIGINT, signal.SIGUSR2, signal.SIGTERM, signal.SIGKILL], marks=pytest.mark.long),
        # the order of gradients in DDP's buckets matters only for more than two ranks
        pytest.param(4, 2, [signal.SIGTERM], marks=pytest.mark.long),
    ],
)
def test_real_processes_killed_at_random_moments_end_with_the_same_bits(
    tiny, saved_run, few_images: str, processes: int, epochs: int, signals: list[signal.Signals]
) -> None:
    settings = (f"train.epochs={epochs}", "train.log_every=1", "train.batch_size=8", "method.memory_bank_size=24")
    reference, config = (tiny(name, few_images, *settings) for name in ("reference", "killed"))
    saved_run(reference)
    run_to_end(reference, processes)
    seconds_per_step = median_seconds_per_step(RunDir.of(reference), config)
    run = saved_run(config)
    generator = random.Random(processes)
    interrupted = []
    for workers, number in enumerate(signals):
        steps_before = steps_saved(run)
        job = subprocess.Popen(command(config, processes, workers % 3), start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
        deadline = time.monotonic() + 120
        while not logged_beyond(run, steps_before) and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 1.5 * seconds_per_step))
        if job.poll() is None:
            os.killpg(job.pid, number)  # all processes, including loader workers, as some clusters do
        output, _ = job.communicate(timeout=360)
        if number != signal.SIGKILL:
            assert job.returncode in (75, 0), output
            assert "killed by signal" not in output
        if job.returncode:
            interrupted.append(number)
    assert interrupted == signals
    run_to_end(config, processes)
    assert_same_bits(final_state(RunDir.of(reference)), final_state(run))


def median_seconds_per_step(run: RunDir, config: Config) -> float:
    lines = [line for line in MetricsLine.read_lines(run.metrics).strict() if line.phase == "train"]
    return config.train.batch_size / float(np.median([line.values["images_per_second"] for line in lines]))


def logged_beyond(run: RunDir, step: int) -> bool:
    return any(line.step > step for line in MetricsLine.read_lines(run.metrics).records)


@pytest.mark.slow
def test_signal_during_start_loses_nothing(tiny, saved_run) -> None:
    config = tiny("early", "train.log_every=1")
    run = saved_run(config)
    for delay in (0.1, 0.6, 1.5, 3.0):
        steps_before = steps_saved(run)
        deadline = time.monotonic() + delay
        job = subprocess.Popen(command(config, 2, 0), start_new_session=True, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
        while time.monotonic() < deadline and not logged_beyond(run, steps_before):  # a fast machine trains by then
            time.sleep(0.02)
        job.send_signal(signal.SIGTERM)
        _, errors = job.communicate(timeout=60)
        assert job.returncode in (75, -signal.SIGTERM), errors
    run_to_end(config, 2)


def leftover_processes(session: int) -> list[str]:
    """Return the processes of a session: ranks, their loader processes, and the servers that fork these."""
    listed = subprocess.run(["pgrep", "-a", "-s", str(session)], capture_output=True, text=True).stdout
    return listed.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_no_process_is_left_behind(tiny, saved_run, kill: bool) -> None:
    config = tiny("orphans", "train.epochs=50", "train.log_every=1")  # it is stopped after a few steps
    run = saved_run(config)
    job = subprocess.Popen(command(config, 2, 2), start_new_session=True, stdout=subprocess.DEVNULL)
    while not logged_beyond(run, 0) and job.poll() is None:
        time.sleep(0.05)
    running = leftover_processes(job.pid)
    assert sum("forkserver" in line for line in running) == 2 * (1 + 2), (
        "per rank a server and its two loader processes"
    )
    if kill:
        for line in running:
            if "jobs.local.process" in line:
                os.kill(int(line.split()[0]), signal.SIGKILL)
    else:
        job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=120) == (1 if kill else 75)
    deadline = time.monotonic() + 20
    while leftover_processes(job.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert leftover_processes(job.pid) == []
