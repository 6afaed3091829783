"""Who may write into a run: what a submission tightens or refuses, and what a job checks before it imports the code."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.backend import load_cluster
from jobs.plan.rights import protect, require_protected
from jobs.plan.runs import save_config
from jobs.plan.spec import TaskSpec
from jobs.slurm import verify
from jobs.slurm.snapshot import snapshot_of, take_snapshot
from jobs.slurm.submit import Submitter
from jobs.slurm.work import Work
from tests.jobs.batch import run_script
from trex.config import Config
from trex.errors import UserError
from trex.records.run_dir import RunDir

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can create files of another user")
NOBODY = 65534


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "runs" / "run")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# ---- at the submission


@pytest.mark.parametrize("before", [0o777, 0o2775, 0o755, 0o700])
def test_folders_that_others_can_write_are_tightened(run: RunDir, before: int) -> None:
    run.code.mkdir(parents=True)
    run.jobs.mkdir()
    for folder in (run.root, run.code, run.jobs):
        folder.chmod(before)
    save_config(run, Config())
    assert {mode(folder) for folder in (run.root, run.code)} == {before & ~0o022}
    assert mode(run.jobs) & 0o777 == 0o700


@pytest.mark.parametrize("name", ["jobs", "code"])
def test_link_in_place_of_a_folder_is_refused(run: RunDir, name: str) -> None:
    (run.root / "elsewhere").mkdir(parents=True)
    (run.root / name).symlink_to("elsewhere")
    with pytest.raises(UserError, match=rf"{name}: is a link or belongs to another user: expected a folder of your"):
        protect(run)


@as_root
@pytest.mark.parametrize("name", [".", "jobs", "code"])
def test_folder_of_another_user_is_refused(run: RunDir, name: str) -> None:
    (run.root / name).mkdir(parents=True)
    os.chown(run.root / name, NOBODY, NOBODY)
    with pytest.raises(UserError, match="belongs to another user: expected a folder of your own"):
        protect(run)


def test_folder_that_cannot_be_tightened_is_refused_for_submitted_jobs_only(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.root.mkdir(parents=True)
    run.root.chmod(0o777)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)  # as on file systems that accept chmod without effect
    protect(run)
    with pytest.raises(UserError, match="other users may write there, and chmod does not change that"):
        require_protected(run)


@pytest.mark.parametrize(("above", "warned"), [(0o777, True), (0o1777, False), (0o755, False)])
def test_warning_names_each_folder_above_in_which_others_could_rename_the_run(
    run: RunDir, above: int, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run.root.parent.mkdir()
    run.root.parent.chmod(above)
    protect(run)
    assert (f"chmod +t {run.root.parent}\n" in capsys.readouterr().err) is warned


@as_root
@pytest.mark.parametrize(("group", "warned"), [(NOBODY, True), (0, False)])
def test_folder_of_the_users_own_group_is_not_warned_about(
    run: RunDir, group: int, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run.root.parent.mkdir()
    os.chown(run.root.parent, 0, group)
    run.root.parent.chmod(0o2775)
    protect(run)
    assert ("warning" in capsys.readouterr().err) is warned


def test_job_on_this_machine_imports_nothing_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may be shared with others."""
    monkeypatch.chdir(tmp_path)
    for name in ("yaml", "csv", "html"):
        Path(f"{name}.py").write_text("open('pwned', 'w')\n")
    Path("recipe.yaml").write_text("extract: {weights: pixels, datasets: []}\n")
    words = [sys.executable, "-P", "-m", "jobs.cli", "run", "recipe.yaml", "--cluster", "local"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, Path("pwned").exists()) == (0, False), done.stderr


# ---- in the job


def start(run: RunDir, code: str, **settings: Any) -> tuple[str, int]:
    """Run the job of a report, without Slurm. Returns its output and exit code."""
    assert code in Submitter(run, load_cluster("sandbox")).text(Work((TaskSpec("report", str(run.root)),)))
    done = run_script(run, replace(load_cluster("sandbox"), **settings), PYTHONDONTWRITEBYTECODE="")
    return done.stdout + done.stderr, done.returncode


@pytest.fixture
def code(run: RunDir) -> str:
    save_config(run, Config())
    return take_snapshot(run)


def test_job_runs_the_copy_and_makes_nothing_that_others_can_write(run: RunDir, code: str) -> None:
    output, rc = start(run, code, setup=("umask 000",), setup_process=("umask 000",))
    assert rc == 0, output
    assert f"report: {run.report_page}" in output
    assert list(snapshot_of(run, code).rglob("__pycache__/*.pyc")), "the code was imported from the copy"
    assert [path for path in run.root.rglob("*") if mode(path) & 0o022] == []
    assert start(run, code)[1] == 0, "the compiled code that the first job left does not stop the next one"


def change_source(snapshot: Path) -> None:
    file = snapshot / "jobs" / "slurm" / "process.py"
    file.chmod(0o644)
    file.write_text("print('pwned')\n")


def add_module(snapshot: Path) -> None:
    (snapshot / "json.py").write_text("print('pwned')\n")


def add_package_file(snapshot: Path) -> None:
    (snapshot / "trex" / "extra.py").write_text("print('pwned')\n")


def replace_by_link(snapshot: Path) -> None:
    snapshot.rename(snapshot.with_name("mine"))
    snapshot.symlink_to("mine")


def open_to_all(snapshot: Path) -> None:
    (snapshot / "trex" / "images").chmod(0o777)


def open_run(snapshot: Path) -> None:
    snapshot.parents[1].chmod(0o775)


def open_jobs(snapshot: Path) -> None:
    (snapshot.parents[1] / "jobs").chmod(0o770)


def delete(snapshot: Path) -> None:
    shutil.rmtree(snapshot)


def give_compiled_away(snapshot: Path) -> None:
    cache = snapshot / "trex" / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "errors.cpython-311.pyc").write_bytes(b"")
    os.chown(cache / "errors.cpython-311.pyc", NOBODY, NOBODY)


def give_folder_away(snapshot: Path) -> None:
    """As a member of the group does who renames the run folder and copies it."""
    for path in (snapshot.parents[1], *snapshot.parents[1].rglob("*")):
        os.chown(path, NOBODY, NOBODY)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_source, "was changed after it was made"),
        (add_module, "was changed after it was made"),
        (add_package_file, "was changed after it was made"),
        (replace_by_link, "is neither a file nor a folder"),
        (open_to_all, "trex/images can be written by other users"),
        (open_run, "run can be written by other users"),
        (open_jobs, "jobs can be written by other users"),
        (delete, "No such file or directory"),
        pytest.param(give_compiled_away, "errors.cpython-311.pyc belongs to another user", marks=as_root),
        pytest.param(give_folder_away, "runs/run belongs to another user", marks=as_root),
    ],
)
def test_job_does_not_start_code_that_could_be_that_of_another_user(
    run: RunDir, code: str, change: object, said: str
) -> None:
    change(snapshot_of(run, code))  # type: ignore[operator]
    output, rc = start(run, code)
    assert rc == 2
    assert said in output
    assert "pwned" not in output
    assert "expected the code of the submission" in output
    assert "not requeued" in output


def test_check_in_the_job_takes_less_than_half_a_second(run: RunDir, code: str) -> None:
    words = [
        sys.executable,
        "-I",
        "-S",
        str(Path(verify.__file__)),
        str(run.root),
        code,
        "note",
        ".",
        "-I",
        "-S",
        "-c",
        "",
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, capture_output=True, check=True, env={**os.environ, "SLURM_PROCID": "0"})
    assert done.stderr == b""
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 0.5


@pytest.mark.parametrize("folder", ["here", "missing"])
def test_process_works_in_the_folder_of_the_job_if_the_launcher_has_left_it(
    run: RunDir, code: str, folder: str
) -> None:
    here = run.root.parent / "here"
    here.mkdir()
    program = ("-c", "import os, jobs; print(os.getcwd(), jobs.__path__[0])")
    words = [
        sys.executable,
        "-I",
        "-S",
        verify.__file__,
        str(run.root),
        code,
        "note",
        str(here.with_name(folder)),
        *program,
    ]
    done = subprocess.run(
        words, cwd="/", capture_output=True, text=True, check=True, env={**os.environ, "SLURM_PROCID": "0"}
    )
    expected = here if folder == "here" else "/"
    assert done.stdout == f"{expected} {snapshot_of(run, code)}/jobs\n"
