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
    fake_slurm.says("sbatch", "7")
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
    fake_slurm.says("sbatch", "7")
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
    fake_slurm.says("sbatch", "7")
    Path("held.yaml").write_text("train: {options: {hold: yes}}\n")
    assert main(["train", "demo", "--cluster", "held.yaml"]) == 0
    assert "train: submitted as job 7, on hold until: scontrol release 7\n" in capsys.readouterr().err


#: A stand-in for sbatch: it gives no answer at its first call. squeue then shows what `then` says.
_SILENT_ONCE = """#!/bin/sh
echo "$*" >> {path}.asked
[ -e {path}.once ] && echo 8 && exit
: > {path}.once
echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2
exit 1
"""


def silent_once(fake_slurm: FakeSlurm, squeue: str) -> None:
    path = fake_slurm.folder / "sbatch"
    path.write_text(_SILENT_ONCE.format(path=path))
    path.chmod(0o755)
    fake_slurm.says("squeue")
    program = fake_slurm.folder / "squeue"
    program.write_text(f"#!/bin/sh\n{squeue}\n")


#: A line of squeue about job 7, whose script is that of the last call of sbatch.
_TAKEN = r"""
read -r _ script < {folder}/sbatch.asked
printf '7\037PENDING\037Priority\037N/A\037edited by the site\037%s\0370:00\0371:00\037\037\n' "$script"
"""


def test_job_whose_reply_was_lost_is_found_by_its_script(fake_slurm: FakeSlurm) -> None:
    silent_once(fake_slurm, _TAKEN.format(folder=fake_slurm.folder))
    assert main(["train", "demo", "--cluster", "sandbox"]) == 0
    run = RunDir(Path("runs/demo").absolute())
    assert [one.jobs for one in Submission.of(run).strict()] == [{"train": "7"}]
    assert len(fake_slurm.asked("sbatch")) == 1
    assert [path.name for path in run.slurm_jobs.iterdir()] == ["7_submission.sh"]


def test_job_that_was_not_taken_is_sent_again(fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    silent_once(fake_slurm, "true")
    assert main(["train", "demo", "--cluster", "sandbox"]) == 0
    assert [one.jobs for one in Submission.of(RunDir(Path("runs/demo").absolute())).strict()] == [{"train": "8"}]
    assert "Socket timed out on send/recv operation; trying again" in capsys.readouterr().err


@pytest.mark.parametrize("taken", [True, False])
def test_job_of_a_command_that_could_not_find_out_is_found_by_the_next_one(
    fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str], taken: bool
) -> None:
    silent_once(fake_slurm, "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert main(["train", "demo", "--cluster", "sandbox"]) == 1
    assert "it is not known whether Slurm took the train job" in capsys.readouterr().err
    run = RunDir(Path("runs/demo").absolute())
    assert not Submission.of(run).records
    squeue = fake_slurm.folder / "squeue"
    squeue.write_text("#!/bin/sh\n" + (_TAKEN.format(folder=fake_slurm.folder) if taken else "true"))
    assert main(["train", "demo", "--cluster", "sandbox"]) == 0
    said = capsys.readouterr().err
    assert ("an earlier command submitted job 7, and did not record it" in said) == taken
    assert [one.jobs for one in Submission.of(run).strict()] == [{"train": "7" if taken else "8"}]
    assert len(fake_slurm.asked("sbatch")) == (1 if taken else 2)
    assert len(list(run.slurm_jobs.iterdir())) == 1


def test_submission_without_slurm_is_a_mistake_of_the_command(
    fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "demo", "--cluster", "sandbox"]) == 2
    assert "Slurm is not installed on this machine; use --cluster local" in capsys.readouterr().err
