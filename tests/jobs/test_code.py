"""Which commit a job's code is from, with real git repositories and copies of the packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trex.records.code import Code
from trex.records.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "core.excludesFile=/dev/null"]
    return subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True).stdout


def python(packages: Path, run: RunDir, program: str) -> str:
    """Run a program with the packages in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-P", "-c", f"from trex.records.run_dir import RunDir\n{program}", str(run.root)]
    return subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout


def code(packages: Path, run: RunDir) -> Code:
    """Return what a process with the packages in a folder says of its code."""
    program = "import sys; from pathlib import Path; from jobs.plan.code import code_of_this_process as of\n"
    return Code.parse(python(packages, run, program + "print(of(RunDir(Path(sys.argv[1]))).to_line())").encode(), "")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository with the packages."""
    folder = tmp_path / "checkout"
    for package in ("trex", "jobs"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def commit(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.mark.slow
def test_commit_is_that_of_the_checkout_and_changes_of_the_packages_are_noticed(checkout: Path, run: RunDir) -> None:
    assert code(checkout, run) == Code(None, commit(checkout), modified=False)
    (checkout / "notes.txt").write_text("no package")
    assert not code(checkout, run).modified
    new = checkout / "trex" / "new.py"
    new.write_text("")
    assert code(checkout, run) == Code(None, commit(checkout), modified=True)
    new.unlink()
    (checkout / "trex" / "__init__.py").write_text("# edited\n")
    assert code(checkout, run).modified


@pytest.mark.slow
def test_installed_packages_have_no_commit_also_inside_the_repository_of_another_project(
    checkout: Path, run: RunDir, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    packages = project / "site-packages"
    project.mkdir()
    (project / ".gitignore").write_text("site-packages\n")
    checkout.rename(packages)
    shutil.rmtree(packages / ".git")
    assert code(packages, run) == Code(None, None, modified=False)
    git(project, "init", "--quiet")
    assert code(packages, run).commit is None, "it has no commit yet"
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message", "mine")
    assert code(packages, run).commit is None


@pytest.mark.slow
def test_job_that_runs_a_copy_knows_the_commit_that_was_submitted(checkout: Path, run: RunDir) -> None:
    program = (
        "import sys; from pathlib import Path; from jobs.slurm.snapshot import snapshot_of, take_snapshot as take\n"
    )
    program += "run = RunDir(Path(sys.argv[1])); print(snapshot_of(run, take(run)))"
    copy = Path(python(checkout, run, program).strip())
    first = Code(copy.name, commit(checkout), modified=False)
    assert code(copy, run) == first
    assert python(copy, run, program).strip() == str(copy), "a job submits others"
    assert code(copy, run) == first, "the copy itself has no commit"

    git(checkout, "commit", "--quiet", "--allow-empty", "--message", "only a document")
    assert code(copy, run) == first
    python(checkout, run, program)
    assert code(copy, run) == Code(copy.name, commit(checkout), modified=False), "the same code, submitted again"

    run.origin_of_code(copy.name).write_text("damaged")
    assert code(copy, run) == Code(copy.name, None, modified=False)
