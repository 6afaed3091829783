"""The copy of the code that a job runs."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.slurm.snapshot import code_digest, snapshot_of, take_snapshot
from trex.errors import UserError
from trex.records.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]


def snapshot(folder: Path) -> Path:
    """Copy the code into a run folder in `folder`, and return the copy."""
    run = RunDir(folder / "run")
    return snapshot_of(run, take_snapshot(run))


def test_snapshot_is_named_by_its_digest_and_made_once(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    code = take_snapshot(run)
    assert code == code_digest() == take_snapshot(run)
    [folder] = (path for path in run.code.iterdir() if path.is_dir())
    assert folder == snapshot_of(run, code)
    assert code.startswith(folder.name)
    assert sorted(path.name for path in folder.iterdir()) == ["jobs", "trex"]


def test_snapshot_can_be_imported_without_the_checkout(tmp_path: Path) -> None:
    code = snapshot(tmp_path)
    program = "import jobs.worker.task, jobs.cli; print(jobs.worker.task.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(done.stdout.strip()).is_relative_to(code)


@pytest.mark.slow
def test_every_snapshot_of_the_same_code_uses_the_functions_that_the_first_one_compiled(tmp_path: Path) -> None:
    """Otherwise every process of every new run would compile them again."""
    program = (
        "import numpy as np; from trex.images.color import solarize as f; f(np.zeros(9, np.uint8))\n"
        "print(f.stats.cache_path, len(f.stats.cache_hits), len(f.stats.cache_misses))"
    )

    def call(code: Path) -> list[str]:
        environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
        environment |= {"PYTHONPATH": str(code), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        words = [sys.executable, "-P", "-c", program]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    first, second = snapshot(tmp_path / "a"), snapshot(tmp_path / "b")
    [folder, *found] = call(first)
    assert Path(folder).parent == tmp_path / "cache" / "trex" / "compiled"
    assert found == ["0", "1"]
    assert call(second) == [folder, "1", "0"]


def test_only_the_owner_can_write_to_a_snapshot_for_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        code = snapshot(tmp_path)
    finally:
        os.umask(before)
    folders = [code, *(path for path in code.rglob("*") if path.is_dir())]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o755}


def test_snapshot_is_made_on_a_file_system_without_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")  # CIFS and FUSE; the kernel of the tests has neither

    monkeypatch.setattr(os, "chmod", refuse)
    copy = snapshot(tmp_path) / "jobs" / "cli.py"
    assert copy.read_bytes() == (ROOT / "jobs" / "cli.py").read_bytes()
    assert copy.stat().st_mtime_ns == (ROOT / "jobs" / "cli.py").stat().st_mtime_ns


def test_changed_snapshot_is_refused(tmp_path: Path) -> None:
    edited = snapshot(tmp_path) / "jobs" / "worker" / "task.py"
    edited.chmod(0o644)
    edited.write_text("import os\n")
    with pytest.raises(UserError, match="was changed after it was made: expected the copy of the code"):
        snapshot(tmp_path)


def test_snapshot_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """They could have added compiled code, which the digest leaves out."""
    (snapshot(tmp_path) / "trex").chmod(0o775)
    with pytest.raises(UserError, match=r"/trex can be written by other users: expected the copy of the code"):
        snapshot(tmp_path)
