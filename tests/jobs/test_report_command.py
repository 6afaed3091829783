"""`trex report` and `trex export` as commands: what they write where, and mistakes that leave nothing behind."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from jobs.cli import main
from tests.reporting.test_report import result
from trex.files import write_text
from trex.records.run_dir import RunDir


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunDir, RunDir]:
    """Two runs with a result of DTD each, the second one's of the pets too."""
    monkeypatch.chdir(tmp_path)
    made = []
    for name, top1 in (("one", 0.7), ("two", 0.6)):
        run = RunDir(tmp_path / "runs" / name)
        write_text(run.config, f"name: {name}\nextract: {{datasets: [dtd]}}\nprobe: {{seeds: 1}}\n")
        result(run, "dtd", 0, top1)
        made.append(run)
    result(made[1], "pets", 0, 0.5)
    return made[0], made[1]


def test_report_of_one_run_is_written_into_it_and_printed(
    runs: tuple[RunDir, RunDir], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "one"]) == 0
    shown = capsys.readouterr().out
    assert ["70.0" in shown, str(runs[0].report_page) in shown] == [True, True]
    assert sorted(path.name for path in runs[0].report.iterdir()) == [
        "cells.csv", "index.html", "results.csv", "table.md", "table.tex",
    ]  # fmt: skip
    assert not runs[1].report.exists()


def test_report_of_several_runs_goes_into_the_first_or_where_it_is_asked_for(runs: tuple[RunDir, RunDir]) -> None:
    assert main(["report", "two", "runs/one"]) == 0
    assert "60.0" in runs[1].report_page.read_text()
    assert not runs[0].report.exists()
    assert main(["report", "one", "two", "--to", "elsewhere/both"]) == 0
    rows = list(csv.DictReader(io.StringIO(Path("elsewhere/both/results.csv").read_text())))
    assert [(row["run"], row["dataset"], row["top1"]) for row in rows] == [
        ("one", "dtd", "0.7"), ("two", "dtd", "0.6"), ("two", "pets", "0.5"),
    ]  # fmt: skip
    assert not runs[0].report.exists()


def test_metric_chooses_the_score_of_the_tables_and_several_runs_have_a_file_of_differences(
    runs: tuple[RunDir, RunDir], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "one", "two", "--metric", "nll"]) == 0
    shown = capsys.readouterr().out
    assert ["0.500" in shown, "70.0" in shown, "Negative log-likelihood" in shown] == [True, False, True]
    assert "0.500" in (runs[0].report / "table.md").read_text()
    rows = list(csv.DictReader(io.StringIO((runs[0].report / "differences.csv").read_text())))
    assert (rows[0]["metric"], rows[0]["problem"]) == ("top1", "predictions are missing")
    with pytest.raises(SystemExit):
        main(["report", "one", "--metric", "accuracy"])
    assert "invalid choice: 'accuracy'" in capsys.readouterr().err


def test_classes_of_a_dataset_are_printed_and_written_beside_the_report(
    runs: tuple[RunDir, RunDir], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "one", "two", "--classes", "pets"]) == 0
    shown = capsys.readouterr().out
    assert "two: pets, exact" in shown
    assert "one: pets" not in shown
    rows = list(csv.DictReader(io.StringIO((runs[0].report / "confusion_pets.csv").read_text())))
    assert [(row["run"], row["class"], row["predicted"], row["images"]) for row in rows] == [
        ("two", "cat", "cat", "1"), ("two", "cat", "dog", "2"),
    ]  # fmt: skip


def test_classes_of_a_dataset_of_torchvision_have_a_plain_file_name(runs: tuple[RunDir, RunDir]) -> None:
    result(runs[0], "torchvision:CIFAR10", 0, 0.7)
    assert main(["report", "one", "--classes", "torchvision:CIFAR10"]) == 0
    assert (runs[0].report / "confusion_torchvision_CIFAR10.csv").exists()


def test_classes_of_a_dataset_without_results_are_an_error_that_names_the_others(
    runs: tuple[RunDir, RunDir], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "two", "--classes", "flowers"]) == 2
    said = capsys.readouterr().err
    assert ["'flowers'" in said, "dtd, pets" in said] == [True, True]
    assert not list(runs[1].report.glob("confusion*"))


def test_one_run_that_does_not_exist_leaves_no_report_of_the_others(
    runs: tuple[RunDir, RunDir], capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(Path("new.yaml"), "name: new\n")
    for missing in ("three", "new.yaml"):
        assert main(["report", "one", missing, "--to", "out"]) == 2
        assert missing.removesuffix(".yaml") in capsys.readouterr().err
        assert not Path("out").exists()


def test_report_cannot_go_where_a_file_is(runs: tuple[RunDir, RunDir], capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken").write_text("mine")
    for target in ("taken", "taken/below"):
        assert main(["report", "one", "--to", target]) == 2
        assert "taken" in capsys.readouterr().err
    assert Path("taken").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "weights.bin"], ".safetensors"),
        (["--to", "weights.safetensors", "--layout", "full"], "weights.safetensors"),
        (["--to", "weights.pth"], "trex train one"),
        (["--to", "taken.pth"], "taken.pth"),
        (["--to", "noted.pth"], "noted.md"),
    ],
)
def test_export_that_cannot_be_is_an_error_and_writes_nothing(
    runs: tuple[RunDir, RunDir], words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("taken.pth", "noted.md"):
        Path(name).write_text("mine")
    before = sorted(Path().rglob("*"))
    assert main(["export", "one", *words]) == 2
    assert said in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before
    assert Path("taken.pth").read_text() == "mine"
