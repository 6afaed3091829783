"""The status of a run, from its files and the output of Slurm's programs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.commands.status import as_text, collect
from jobs.plan.runs import open_config, save_config
from jobs.plan.stages import plan
from jobs.run_status import RunStatus
from tests.jobs.conftest import FakeSlurm, note_submission, queued
from tests.records.examples import PROBE_RESULT
from trex.records.events import AttemptStarted, IntervalChosen
from trex.records.job_state import JobState, State
from trex.records.manifest import MANIFEST, Manifest
from trex.records.metrics import MetricsLine
from trex.records.probe_result import ProbeResult, predictions_file
from trex.records.run_dir import RunDir


def make_run(*settings: str) -> RunDir:
    Path("recipe.yaml").write_text("name: mine\n")
    run, config = open_config("recipe.yaml", settings)
    save_config(run, config)
    return run


def states(status: RunStatus) -> dict[str, str]:
    return {stage.stage: stage.state for stage in status.stages}


def test_run_without_datasets_shows_no_extraction_and_no_probes(fake_slurm: FakeSlurm) -> None:
    make_run("extract.datasets=[]")
    (status,) = collect(["mine"])
    assert states(status) == {"train": "open", "report": "open"}
    assert "not started" in as_text([status])


def test_report_that_is_older_than_the_metrics_is_not_done(fake_slurm: FakeSlurm) -> None:
    run = make_run()
    run.report.mkdir()
    (run.report / "index.html").write_text("")
    assert states(collect(["mine"])[0])["report"] == "done"
    run.metrics.write_text("")
    os.utime(run.report / "index.html", (1000, 1000))
    (status,) = collect(["mine"])
    assert states(status)["report"] == "stale"
    assert "trex report mine updates it" in as_text([status])


@pytest.mark.parametrize("damage", ["empty", "half", "zeros at the end", "another format", "no predictions"])
def test_damaged_result_is_not_done_and_is_named(
    fake_slurm: FakeSlurm, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("extract.datasets=[dtd]", "probe.seeds=2", "probe.kinds=[exact]")
    for seed in range(2):
        path = run.probe("dtd", "exact", seed)
        replace(PROBE_RESULT, dataset="dtd", probe="exact", seed=seed).write(path)
        predictions_file(path).write_bytes(b"scores")
    assert states(collect(["mine"])[0])["probe"] == "done"
    assert capsys.readouterr().err == ""
    content, version = path.read_bytes(), b'"format": %d' % ProbeResult.FORMAT
    assert version in content
    changed = {
        "empty": b"", "half": content[: len(content) // 2], "zeros at the end": content[:-30] + bytes(30),
        "another format": content.replace(version, b'"format": 2'), "no predictions": content,
    }  # fmt: skip
    path.write_bytes(changed[damage])
    if damage == "no predictions":
        predictions_file(path).unlink()
    (status,) = collect(["mine"])
    assert states(status)["probe"] == "open"
    assert f"{path}: damaged, of another version, or without predictions" in capsys.readouterr().err
    _, config = open_config("recipe.yaml", ("extract.datasets=[dtd]", "probe.seeds=2", "probe.kinds=[exact]"))
    assert [spec.stage for spec in plan(run, config, ("probe",)).specs] == ["probe"], "`trex probe` agrees"


def test_goodput_and_restarts_include_the_starts_of_earlier_jobs(fake_slurm: FakeSlurm) -> None:
    run = make_run("train.batch_size=10")
    for job, comment in (("7", "a"), ("8", "b")):
        note_submission(run, comment, train=job)
        AttemptStarted(0.0, "train", ("train",), job, 0, "nothing", nodes=1, node="n1", world=1).append(run.events)
    MetricsLine("train", 15, 1.0, {"images_per_second": 1.0}, 0.0).append(run.metrics)
    fake_slurm.says("squeue")
    fake_slurm.says("sacct", "7|NODE_FAIL|100", "8|CANCELLED by 0|200")
    (status,) = collect(["mine"])
    assert fake_slurm.asked("sacct")[0].count("--jobs=7,8") == len(fake_slurm.asked("sacct")) == 1
    assert status.stops == ["ended without a record (NODE_FAIL)"]
    assert (status.allocated_seconds, status.goodput) == (300, 0.5)


@pytest.mark.parametrize(("minutes", "shown"), [("auto", True), ("5", False)])
def test_interval_that_the_training_chose_last_is_shown(fake_slurm: FakeSlurm, minutes: str, shown: bool) -> None:
    run = make_run(f"checkpoint.every_minutes={minutes}")
    chosen = IntervalChosen(1.0, 20, 720.0, save_seconds=1.8, failure_hours=40.0, failures=2, hours=80.0)
    for event in (replace(chosen, seconds=600.0), chosen):
        event.append(run.events)
    (status,) = collect(["mine"])
    assert (chosen.text in as_text([status])) == shown
    assert status.saves == (chosen.text if shown else "")


def test_job_of_an_earlier_submission_is_shown_if_it_is_in_the_queue(fake_slurm: FakeSlurm) -> None:
    run = make_run()
    note_submission(run, "a", train="7")
    note_submission(run, "b", train="8")
    fake_slurm.says("squeue", queued("7", "RUNNING", "a"))
    fake_slurm.says("sacct")
    (status,) = collect(["mine"])
    assert (status.stages[0].state, status.stages[0].parts[0].job) == ("running", "7")


def milestone(run: RunDir, epoch: int) -> None:
    """Write a milestone checkpoint that is empty."""
    folder = run.checkpoints / f"epoch-{epoch:04d}-step-00000000"
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_text("")
    Manifest(7, 0, "0" * 64, milestone=True, finished=False).write(folder / MANIFEST)


def test_milestones_are_one_line_with_the_first_reason_and_the_command_that_continues_them(
    fake_slurm: FakeSlurm,
) -> None:
    settings = ("probe.at=milestones", "probe.at_datasets=[dtd]", "checkpoint.milestone_epochs=5")
    run = make_run("extract.datasets=[dtd, pets]", *settings)
    assert "milestones" not in states(collect(["mine"])[0]), "none exists yet"
    for epoch in (5, 10):
        milestone(run, epoch)
    text = as_text(collect(["mine"]))
    assert "\n  milestones not started   0/2 done, trex retry mine" in text
    assert "\n  train      not started" in text

    note_submission(run, "a", **{"extract_dtd@epoch-0005": "7"})
    note_submission(run, "b", **{"probe_dtd@epoch-0005": "8"})
    fake_slurm.says("squeue", queued("7", "RUNNING", "a"), queued("8", "PENDING", "b"))
    fake_slurm.says("sacct")
    assert "\n  milestones running       0/2 done, job 7, on n1 for 0:01, 1:00 left" in as_text(collect(["mine"]))

    failed = JobState(State.FAILED, 2, "no such folder", None, "7", 0, "nothing", 1, 0.0)
    failed.save(run, "extract-dtd@epoch-0005")
    fake_slurm.says("squeue")
    text = as_text(collect(["mine"]))
    assert "\n  milestones FAILED        0/2 done, job 7, no such folder" in text
    assert "continue with: trex retry mine" in text


def test_damaged_result_of_a_milestone_is_not_done_and_is_named(
    fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("probe.at=milestones", "probe.at_datasets=[dtd]", "probe.seeds=1", "checkpoint.milestone_epochs=5")
    run = make_run("extract.datasets=[dtd]", *settings)
    milestone(run, 5)
    path = run.at(5).probe("dtd", "exact", 0)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert "\n  milestones not started   0/1 done, trex retry mine" in as_text(collect(["mine"]))
    expected = f"{path}: damaged, of another version, or without predictions; trex retry mine computes it"
    assert expected in capsys.readouterr().err
