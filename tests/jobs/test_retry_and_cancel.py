"""`trex retry` and `trex cancel` where there is nothing to do, the queue refuses, or a file is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cli import main
from tests.jobs.conftest import FakeSlurm, note_submission, queued, saved_run
from trex.files import write_text
from trex.records.events import AttemptStarted
from trex.records.run_dir import RunDir


@pytest.fixture
def run(fake_slurm: FakeSlurm) -> RunDir:
    return saved_run("extract: {datasets: [digits]}")


def fails(fake_slurm: FakeSlurm, program: str, message: str) -> None:
    """Let a program of Slurm's refuse."""
    path = fake_slurm.folder / program
    path.write_text(f"#!/bin/sh\necho \"$*\" >> {path}.asked\necho '{message}' >&2\nexit 1\n")
    path.chmod(0o755)


def files(run: RunDir) -> list[str]:
    return sorted(str(path) for path in run.root.rglob("*"))


def test_cancel_of_a_run_without_jobs_says_so_and_asks_no_queue(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_slurm.says("squeue")
    assert main(["cancel", "mine"]) == 0
    assert "mine" in capsys.readouterr().err
    assert fake_slurm.asked("squeue") == []


def test_cancel_names_what_was_cancelled_and_an_array_once(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    note_submission(run, "a", probe_dtd="7_0", probe_pets="7_1")
    note_submission(run, "b", report="8")
    fake_slurm.says("squeue", queued("7_0", "RUNNING", "a"), queued("7_1", "PENDING", "a"))
    fake_slurm.says("scancel")
    assert main(["cancel", "mine"]) == 0
    assert fake_slurm.asked("scancel") == ["7"]
    said = capsys.readouterr().err
    assert ["2" in said, "probe-dtd, probe-pets" in said, "report" in said] == [True, True, False]


def test_job_that_ended_while_it_was_cancelled_is_no_error(run: RunDir, fake_slurm: FakeSlurm) -> None:
    note_submission(run, "a", train="7")
    fake_slurm.says("squeue", queued("7", "RUNNING", "a"))
    fails(fake_slurm, "scancel", "scancel: error: Invalid job id 7")
    assert main(["cancel", "mine"]) == 0


def test_refusal_of_scancel_is_an_error_with_its_words(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    note_submission(run, "a", train="7")
    fake_slurm.says("squeue", queued("7", "RUNNING", "a"))
    fails(fake_slurm, "scancel", "Access denied")
    assert main(["cancel", "mine"]) == 1
    assert "Access denied" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["cancel", "retry"])
def test_queue_that_does_not_answer_is_an_error_with_its_words(
    run: RunDir, fake_slurm: FakeSlurm, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    note_submission(run, "a", train="7")
    write_text(run.cluster, "kind: slurm\n")
    fails(fake_slurm, "squeue", "slurm_load_jobs error: Unable to contact")
    assert main([command, "mine"]) == 1
    assert "Unable to contact" in capsys.readouterr().err
    assert fake_slurm.asked("scancel") == []


def test_retry_of_a_run_whose_cluster_file_is_gone_names_it(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    note_submission(run, "a", train="7")
    before = files(run)
    assert main(["retry", "mine"]) == 2
    assert str(run.cluster) in capsys.readouterr().err
    assert files(run) == before


def test_retry_with_another_cluster_file_needs_none_in_the_run(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    note_submission(run, "a", train="7")
    fake_slurm.says("squeue")
    Path("other.yaml").write_text("train: {partition: big}\n")
    before = files(run)
    assert main(["retry", "mine", "--cluster", "other.yaml", "--dry-run"]) == 0
    assert "#SBATCH --partition=big\n" in capsys.readouterr().out
    assert files(run) == before


def test_retry_submits_only_the_stages_that_were_submitted_before(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    note_submission(run, "a", train="7")
    note_submission(run, "b", probe_digits="8")
    fake_slurm.says("squeue")
    assert main(["retry", "mine", "--cluster", "slurm", "--dry-run"]) == 0
    scripts = capsys.readouterr().out.split("would be submitted: ")[1:]
    assert [script.split("\n")[0] for script in scripts] == ["train", "probe-digits"]


def test_retry_of_a_run_that_is_wholly_in_the_queue_submits_nothing(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    note_submission(run, "a", train="7")
    fake_slurm.says("squeue", queued("7", "PENDING", "a"))
    assert main(["retry", "mine", "--cluster", "slurm", "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "job 7" in shown.err


@pytest.mark.parametrize("command", ["retry", "cancel", "logs", "status"])
def test_run_that_does_not_exist_is_an_error_with_the_runs_there_are(
    run: RunDir, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "mime"]) == 2
    said = capsys.readouterr().err
    assert ["mime" in said, "'mine'" in said] == [True, True]


def test_processes_of_this_machine_cannot_be_chosen_for_slurm(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_slurm.says("squeue")
    assert main(["train", "recipe.yaml", "--cluster", "slurm", "--processes", "2", "--dry-run"]) == 2
    assert "--processes" in capsys.readouterr().err


def test_datasets_that_are_not_on_this_machine_are_a_warning_with_their_folders(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    """The nodes may see folders that the login node does not."""
    Path("data/pets").mkdir(parents=True)
    words = ["extract", "recipe.yaml", "extract.datasets=[dtd, pets, digits]", "--cluster", "slurm", "--dry-run"]
    assert main([*words, "name=other"]) == 0
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert f"dtd ({Path.cwd()}/data/dtd)" in warning
    assert ["pets" in warning, "digits" in warning] == [False, False]


def test_first_back_end_that_answers_is_chosen_where_no_cluster_is_named(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "recipe.yaml", "--dry-run"]
    fake_slurm.says("sbatch", "slurm 23.11")
    fails(fake_slurm, "sinfo", "slurm_load_partitions: Unable to contact slurm controller (connect failure)")
    assert main(words) == 1
    assert "Slurm is installed here, but does not answer" in capsys.readouterr().err
    fake_slurm.says("sinfo", "low up")
    assert main(words) == 0
    assert "#SBATCH" in capsys.readouterr().out


def test_retry_continues_here_what_was_started_here_with_as_many_processes(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(run.local_cluster, "kind: local\n")
    for job, world in (("local-1", 1), ("local-2", 2)):
        AttemptStarted(0.0, "train", ("train",), job, 0, "nothing", nodes=1, node="n1", world=world).append(run.events)
    fake_slurm.says("nvidia-smi")
    assert main(["retry", "mine", "--dry-run"]) == 0
    assert "would run on this machine: train with 2 processes" in capsys.readouterr().out
