"""What a submission leaves behind and says, with a stand-in for sbatch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs.cli import main
from tests.jobs.conftest import FakeSlurm
from trex.errors import ExitCode
from trex.records.run_dir import RunDir
from trex.records.submission import Submission


def test_work_of_a_job_is_in_its_script_and_in_no_pickle(fake_slurm: FakeSlurm) -> None:
    fake_slurm.says("sbatch", "Submitted batch job 7")
    Path("recipe.yaml").write_text("extract: {weights: pixels, datasets: [dtd, pets]}\n")
    assert main(["extract", "recipe.yaml", "--cluster", "sandbox"]) == 0
    run = RunDir(Path("runs/run").absolute())
    assert [one.jobs for one in Submission.of(run).strict()] == [{"extract-dtd": "7_0", "extract-pets": "7_1"}]
    made = [path for path in run.slurm_jobs.iterdir() if not path.is_symlink()]
    assert [path.name for path in made] == ["7_submission.sh"]
    script = made[0].read_text()
    assert "#SBATCH --array=0-1%2\n" in script
    assert re.search(r"^trex_specs=\('.*\"dataset\": \"dtd\".*' '.*\"dataset\": \"pets\".*'\)", script, re.MULTILINE)


def test_submission_from_a_file_system_without_modes_is_refused(
    fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_slurm.says("sbatch", "Submitted batch job 7")
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine").chmod(0o777)
    Path("recipe.yaml").write_text("name: mine\n")
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    assert main(["train", "recipe.yaml", "--cluster", "slurm"]) == ExitCode.USER_ERROR
    assert "other users may write there, and chmod does not change that" in capsys.readouterr().err
    assert fake_slurm.asked("sbatch") == []


def test_submission_on_hold_says_how_to_release_the_job(
    fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_slurm.says("sbatch", "Submitted batch job 7")
    Path("held.yaml").write_text("train: {options: {hold: yes}}\n")
    assert main(["train", "demo", "--cluster", "held.yaml"]) == 0
    assert "train: submitted as job 7, on hold until: scontrol release 7\n" in capsys.readouterr().err


def test_submission_without_slurm_is_a_mistake_of_the_command(
    fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "demo", "--cluster", "sandbox"]) == 2
    assert "Slurm is not installed on this machine; use --cluster local" in capsys.readouterr().err
