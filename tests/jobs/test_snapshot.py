"""The copy of the code that a job runs, and the private folder of its job files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.slurm.snapshot import code_digest, take_snapshot
from jobs.slurm.submit import make_private
from trex.errors import UserError
from trex.records.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]


def test_snapshot_is_named_by_its_digest_and_made_once(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    first = take_snapshot(run)
    assert first.name == code_digest() == code_digest(first)
    assert take_snapshot(run) == first
    assert [path.name for path in run.code.iterdir()] == [first.name]
    assert sorted(path.name for path in first.iterdir()) == ["jobs", "trex"]


def test_snapshot_can_be_imported_without_the_checkout(tmp_path: Path) -> None:
    code = take_snapshot(RunDir(tmp_path / "run"))
    program = "import jobs.worker.task, jobs.cli; print(jobs.worker.task.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(done.stdout.strip()).is_relative_to(code)


@pytest.mark.slow
def test_snapshot_includes_compiled_functions(tmp_path: Path) -> None:
    """Otherwise every process of every new run would compile them again."""
    program = (
        "import numpy as np; from trex.images.color import solarize as f; f(np.zeros(9, np.uint8))\n"
        "print(f.stats.cache_path, len(f.stats.cache_hits), len(f.stats.cache_misses))"
    )

    def call(code: Path) -> list[str]:
        environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
        environment["PYTHONPATH"] = str(code)
        words = [sys.executable, "-P", "-c", program]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    call(ROOT)
    code = take_snapshot(RunDir(tmp_path / "run"))
    assert call(code) == [str(code / "trex" / "images" / "__pycache__"), "1", "0"]


def test_only_the_owner_can_write_to_a_snapshot_for_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        code = take_snapshot(RunDir(tmp_path / "run"))
    finally:
        os.umask(before)
    folders = [code, *(path for path in code.rglob("*") if path.is_dir())]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o755}


def test_changed_snapshot_is_refused(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    edited = take_snapshot(run) / "jobs" / "worker" / "task.py"
    edited.chmod(0o644)
    edited.write_text("import os\n")
    with pytest.raises(UserError, match="this copy of the code was changed after it was made"):
        take_snapshot(run)


def test_folder_of_job_files_is_private_even_if_it_was_open(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    folder.chmod(0o777)
    make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "jobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link or belongs to another user"):
        make_private(tmp_path / "jobs")
