"""`trex diff` shows how two runs differ, and nothing that is equal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.cli import main
from tests.records.examples import ENVIRONMENT
from tests.reporting.test_report import result
from trex.files import write_text
from trex.records.events import record
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunDir, RunDir]:
    """Two runs that differ in the learning rate, the version of torch, the last loss and the result on DTD."""
    monkeypatch.chdir(tmp_path)
    made = []
    for name, rate, torch, loss, top1 in (("one", 0.1, "2.14.1", 1.25, 0.7), ("two", 0.2, "2.13.0", 1.5, 0.6)):
        run = RunDir(tmp_path / "runs" / name)
        write_text(run.config, f"name: {name}\noptimizer: {{lr: {rate}}}\nextract: {{datasets: [dtd]}}\n")
        record(replace(ENVIRONMENT, packages={"torch": torch}), run.events)
        run.metrics.write_text(MetricsLine("train", 50, 1.5, {"loss": loss}, 2.0).to_line() + "\n", encoding="utf-8")
        result(run, "dtd", 0, top1)
        made.append(run)
    return made[0], made[1]


def test_what_differs_is_shown(runs: tuple[RunDir, RunDir], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "one", "two"]) == 0
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["optimizer.lr", "0.1", "0.2"] in words
    assert ["train:", "torch", "2.14.1", "2.13.0"] in words
    assert ["train:", "loss", "1.25", "(epoch", "1.5)", "1.5", "(epoch", "1.5)"] in words
    assert [line[:6] for line in words if "dtd" in line] == [["one", "−", "two", "exact", "dtd", "+10.0"]]


def test_what_is_equal_is_not_shown(runs: tuple[RunDir, RunDir], capsys: pytest.CaptureFixture[str]) -> None:
    write_text(runs[1].config, runs[0].config.read_text(encoding="utf-8").replace("one", "two"))
    assert main(["diff", "one", "two"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("settings\nno difference\n\nmachines")
    assert "Python" not in shown


def test_mistakes(runs: tuple[RunDir, RunDir], capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in (
        (["one", "runs/one"], "are the same run"),
        (["one", "tow"], "did you mean 'two'"),
        (["one", "trex_star"], "this run does not exist yet"),
    ):
        assert main(["diff", *words]) == 2
        assert expected in capsys.readouterr().err
