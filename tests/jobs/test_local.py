"""A job on this machine: signals reach its ranks, a failed rank ends the others, and there is one exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs import programs
from jobs.local import run as local
from jobs.plan.spec import TaskSpec
from trex.errors import ExitCode
from trex.records.job_state import JobState, State
from trex.records.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]


def rank(tmp_path: Path, *words: str) -> programs.Process:
    return programs.start(words, {"PATH": os.environ["PATH"]}, tmp_path / "log")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
@pytest.mark.parametrize("whole_group", [False, True])
def test_signal_to_ranks_that_are_still_starting_is_not_lost(
    tmp_path: Path, number: signal.Signals, whole_group: bool
) -> None:
    (tmp_path / "tiny.yaml").write_text("name: early\ndata: {dataset: digits_seen}\ntrain: {epochs: 50}\n")
    words = [sys.executable, "-m", "jobs.cli", "train", "tiny.yaml", "--cluster", "local", "--processes", "2"]
    outside = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        words, cwd=tmp_path, env=outside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as job:
        run = RunDir(tmp_path / "runs" / "early")
        while len(list(run.local_jobs.glob("*.out"))) < 2:
            time.sleep(0.005)
        (os.killpg if whole_group else os.kill)(job.pid, number)
        output, _ = job.communicate(timeout=60)
    assert job.returncode == ExitCode.INTERRUPTED, output
    assert b"Traceback" not in output
    assert not list(run.checkpoints.glob("*"))


def test_rank_that_fails_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_SECONDS_TO_END", 0.3)
    ignores = tmp_path / "ignores_sigterm"
    stubborn = rank(tmp_path, "bash", "-c", f"trap '' TERM; touch '{ignores}'; sleep 60 & wait; wait")
    while not ignores.exists():
        time.sleep(0.01)
    ranks = [stubborn, rank(tmp_path, "false")]
    began = time.monotonic()
    failed: list[int] = []
    local._wait(ranks, lambda: None, failed.append)
    assert time.monotonic() - began < 20
    assert [one.returncode for one in ranks] == [-signal.SIGKILL, 1]
    assert failed == [1]


def test_rank_that_was_interrupted_or_is_done_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_SECONDS_TO_END", 0.1)
    ranks = [rank(tmp_path, "bash", "-c", f"sleep {seconds}; exit {code}") for seconds, code in ((1, 0), (0, 75))]
    failed: list[int] = []
    local._wait(ranks, lambda: None, failed.append)
    assert [one.returncode for one in ranks] == [0, 75]
    assert failed == []


@pytest.mark.parametrize(
    ("code", "recorded", "interrupted", "expected", "said"),
    [
        (0, None, False, ExitCode.DONE, ""),
        (3, None, False, ExitCode.LOCKED, ""),
        (1, State.FAILED, False, ExitCode.FAULT, ""),
        (-9, None, True, ExitCode.INTERRUPTED, ""),
        (-9, State.FAILED, False, ExitCode.USER_ERROR, "trex: error: rank 1 on n1: no such image"),
        (-9, State.RUNNING, False, ExitCode.FAULT, "ended without a record; its log is"),
        (1, None, False, ExitCode.FAULT, "ended without a record; its log is"),
    ],
)
def test_exit_code_is_that_of_rank_0_or_the_one_that_another_rank_recorded(
    tmp_path: Path, capsys, code: int, recorded: State | None, interrupted: bool, expected: ExitCode, said: str
) -> None:
    run, spec = RunDir(tmp_path), TaskSpec("train", str(tmp_path))
    if recorded is not None:
        failed = ExitCode.USER_ERROR if recorded == State.FAILED else None
        JobState(recorded, failed, "rank 1 on n1: no such image", None, "j", 0, "nothing", 1, 0.0).save(run, "train")
    assert local._exit_code(run, spec, "j", code, interrupted) == expected
    assert said in capsys.readouterr().err
