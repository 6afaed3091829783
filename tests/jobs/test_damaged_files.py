"""`trex status` and reports warn about damaged files and show everything else."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.plan.runs import open_config, save_config
from tests.jobs.conftest import FakeSlurm
from tests.records.damage import damaged
from tests.records.examples import EVENTS, METRICS, STATE, SUBMISSION
from trex.records.base import Record
from trex.records.run_dir import RunDir

FILES: dict[str, tuple[Callable[[RunDir], Path], tuple[Record, ...]]] = {
    "events": (lambda run: run.events, EVENTS),
    "metrics": (lambda run: run.metrics, METRICS),
    "submissions": (lambda run: run.submissions, (SUBMISSION,)),
    "state": (lambda run: run.state("train"), (STATE,)),
}


def make_run(name: str) -> RunDir:
    Path(f"{name}.yaml").write_text(f"name: {name}\nextract: {{datasets: [dtd]}}\n")
    run, config = open_config(f"{name}.yaml")
    save_config(run, config)
    for record in EVENTS:
        record.append(run.events)
    for line in METRICS:
        line.append(run.metrics)
    SUBMISSION.append(run.submissions)
    STATE.save(run, "train")
    return run


@pytest.fixture
def runs(fake_slurm: FakeSlurm) -> tuple[RunDir, RunDir]:
    """Two runs, of which the first will be damaged."""
    fake_slurm.says("squeue")
    fake_slurm.says("sacct")
    return make_run("damaged"), make_run("intact")


@pytest.mark.parametrize("name", FILES)
def test_status_warns_about_a_damaged_file_and_shows_the_other_runs(
    runs: tuple[RunDir, RunDir], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = FILES[name][0](runs[0])
    content = path.read_bytes()
    path.write_bytes(b'{"format": 1}\n' + (content if path.suffix == ".jsonl" else b""))
    assert main(["status"]) == 0
    shown = capsys.readouterr()
    where = f"{path}:1" if path.suffix == ".jsonl" else str(path)
    assert f"trex: left out: {where}: " in shown.err
    assert "Traceback" not in shown.err
    damaged_run, intact_run = shown.out.split("\n\n")
    assert damaged_run.startswith("damaged\n")
    assert intact_run.startswith("intact\n")
    if path.suffix == ".jsonl":
        assert damaged_run.splitlines()[1:-1] == intact_run.splitlines()[1:-1], "the valid lines are used"


def test_status_shows_the_other_run_for_any_damage_of_the_files(
    runs: tuple[RunDir, RunDir], capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(5)
    for place, records in FILES.values():
        path = place(runs[0])
        count = 1000 if path.suffix == ".jsonl" else 1
        path.write_bytes(b"".join(damaged(chance, chance.choice(records).to_json()) + b"\n" for _ in range(count)))
    assert main(["status"]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("trex: left out: ") > 2100
    assert "\n\nintact\n" in shown.out
    assert main(["status", "--json"]) == 0


def test_submitting_refuses_a_damaged_list_of_submissions(
    runs: tuple[RunDir, RunDir], fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    """The damaged line may name a job that is in the queue."""
    runs[0].submissions.write_text("{}\n")
    assert main(["retry", "damaged", "--cluster", "slurm", "--dry-run"]) == 1
    assert f"{runs[0].submissions}:1: " in capsys.readouterr().err


@pytest.mark.slow
def test_report_lists_damaged_files_and_shows_the_rest(runs: tuple[RunDir, RunDir]) -> None:
    for path in (runs[0].events, runs[0].metrics):
        path.write_bytes(b"[]\n" + path.read_bytes())
    assert main(["report", "damaged", "intact"]) == 0
    page = runs[0].report_page.read_text()
    for path in (f"{runs[0].events}:1", f"{runs[0].metrics}:1"):
        assert f"damaged: left out: {path}: " in page
    assert "damaged, train" in page
