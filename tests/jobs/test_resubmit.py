"""What a second command does about the jobs of the first: jobs in the queue, ending jobs, an old report."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from jobs.cli import main
from jobs.plan.runs import open_config, save_config
from jobs.slurm import queued as queued_module
from tests.jobs.conftest import FakeSlurm, note_submission, queued, saved_run
from trex.features.store import Contents, write_features
from trex.records.feature_provenance import FeatureProvenance
from trex.records.run_dir import RunDir

WORDS = ["train", "recipe.yaml", "--cluster", "slurm", "--dry-run"]


@pytest.fixture
def run(fake_slurm: FakeSlurm) -> RunDir:
    """A run whose training was submitted as job 7."""
    run = saved_run("extract: {datasets: [digits]}")
    note_submission(run, "trex:mine:train:a", train="7")
    return run


def test_dry_run_skips_jobs_that_are_in_the_queue(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_slurm.says("squeue", queued("7", "PENDING", "trex:mine:train:a"))
    assert main(["run", *WORDS[1:]]) == 0
    shown = capsys.readouterr()
    assert "train: already in the queue as job 7" in shown.err
    assert shown.out.count("# ---- would be submitted: ") == 3
    assert "#SBATCH --dependency=afterok:7\n" in shown.out


@pytest.mark.parametrize(("state", "scripts"), [("PENDING", 0), (None, 1)])
def test_ending_job_is_submitted_again_only_if_it_is_not_requeued(
    run: RunDir,
    fake_slurm: FakeSlurm,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    state: str | None,
    scripts: int,
) -> None:
    monkeypatch.setattr(queued_module, "_PAUSE", 0.01)
    later = [queued("7", state, "trex:mine:train:a")] if state else []
    fake_slurm.says("squeue", queued("7", "COMPLETING", "trex:mine:train:a"), then=later)
    assert main(WORDS) == 0
    shown = capsys.readouterr()
    assert shown.err.count("job 7 is ending") == 1
    assert len(fake_slurm.asked("squeue")) == 2
    assert shown.out.count("# ---- would be submitted: ") == scripts
    assert "--dependency" not in shown.out


def test_retry_submits_only_the_training_if_features_of_an_earlier_checkpoint_exist(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    about = FeatureProvenance("mine", "digits", "test", "s", "e", "epoch-0040", "t", "float32", False, {})
    features = np.zeros((2, 3), np.float32)
    contents = Contents((2, 3), np.arange(2), ["a", "b"], ("a", "b"), about)
    write_features(run.features("digits", "test"), [features], contents)
    note_submission(run, "trex:mine:extract:b", extract_digits="8_0")
    note_submission(run, "trex:mine:probe:c", probe_digits="9_0")
    fake_slurm.says("squeue")
    assert main(["retry", "mine", "--cluster", "slurm", "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert "submitting only the training: " in shown.err
    assert "the training, when it has finished and epoch-0040" in shown.err
    assert shown.out.count("# ---- would be submitted: ") == 1
    assert "mine-train" in shown.out


def test_job_that_is_still_ending_after_a_minute_becomes_a_dependency_of_the_next(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued_module, "_PAUSE", 0.01)
    monkeypatch.setattr(queued_module, "_MAX_WAIT", 0.0)  # also a slow first answer of squeue leaves time for a second
    fake_slurm.says("squeue", queued("7", "COMPLETING", "trex:mine:train:a"))
    assert main(WORDS) == 0
    shown = capsys.readouterr()
    assert shown.err.count("job 7 is ending") == 1
    assert len(fake_slurm.asked("squeue")) == 2
    assert "#SBATCH --dependency=afterany:7\n" in shown.out


def test_cancel_also_cancels_jobs_of_earlier_submissions(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    note_submission(run, "trex:mine:train:b", train="8")
    note_submission(run, "trex:mine:extract:c", extract_digits="9_0")
    fake_slurm.says(
        "squeue",
        queued("7", "PENDING", "trex:mine:train:a"),
        queued("8", "RUNNING", "trex:mine:train:b"),
        queued("9_0", "PENDING", "another user's job, with a reused id"),
    )
    fake_slurm.says("scancel")
    assert main(["cancel", "mine"]) == 0
    assert fake_slurm.asked("scancel") == ["7 8"]
    assert "cancelled 2 jobs of mine: train" in capsys.readouterr().err


@pytest.mark.parametrize(("age", "scripts"), [(1, 0), (-1, 1)])
def test_report_is_submitted_again_when_a_result_is_newer(
    fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str], age: int, scripts: int
) -> None:
    Path("recipe.yaml").write_text("name: mine\nextract: {datasets: [], weights: pixels}\n")
    run, config = open_config("recipe.yaml")
    save_config(run, config)
    page, result = run.report / "index.html", run.probe("digits", "exact", 0)
    for path, time in ((page, 1000 + age), (result, 1000)):
        path.parent.mkdir(parents=True)
        path.write_text("")
        os.utime(path, (time, time))
    assert main(["run", *WORDS[1:]]) == 0
    assert capsys.readouterr().out.count("# ---- would be submitted: ") == scripts
