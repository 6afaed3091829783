"""`trex logs`: which of a run's logs it prints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.cli import main
from trex.files import write_text
from trex.records.run_dir import RunDir


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run with logs of two jobs of this machine and of an array of Slurm's, the newest last."""
    monkeypatch.chdir(tmp_path)
    run = RunDir(tmp_path / "runs" / "mine")
    write_text(run.config, "name: mine\n")
    names = ["local/local-1_0_log.out", "slurm/7_1_0_log.out", "slurm/7_1_1_log.out", "local/local-2_0_log.out"]
    for age, name in enumerate(reversed(names)):
        write_text(run.jobs / name, f"from {name}\n")
        os.utime(run.jobs / name, (1000 - age, 1000 - age))
    return run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "local/local-2_0_log.out"),
        (["--job", "local-1"], "local/local-1_0_log.out"),
        (["--job", "7_1"], "slurm/7_1_0_log.out"),
        (["--job", "7_1", "--rank", "1"], "slurm/7_1_1_log.out"),
        (["--rank", "1"], "slurm/7_1_1_log.out"),
    ],
)
def test_log_is_the_newest_of_the_job_and_rank_that_are_asked_for(
    run: RunDir, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", "mine", *words]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"from {expected}\n"
    assert f"{run.jobs / expected}\n" in shown.err


@pytest.mark.parametrize("words", [["--job", "7"], ["--job", "7_2"], ["--rank", "5"], ["--rank", "-1"]])
def test_log_that_there_is_not_is_an_error(run: RunDir, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "mine", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ["Traceback" in shown.err, words[1] in shown.err] == [False, True]


def test_bytes_of_a_log_that_are_no_text_are_replaced(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    run.local_log("local-2", 0).write_bytes(b"caf\xe9 open\n")
    assert main(["logs", "mine"]) == 0
    assert capsys.readouterr().out == "caf\N{REPLACEMENT CHARACTER} open\n"


def test_follow_of_a_job_that_is_not_in_the_queue_is_an_error(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "mine", "--follow", "--job", "99"]) == 2
    assert "99" in capsys.readouterr().err
