"""`make test` on a machine without Slurm: installs it where it may, else says in one line what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("slurm-wlm", "slurmdbd", "mariadb-server")  #: each has programs in /usr/bin, which is not on PATH below


def prerequisites(path: Path) -> subprocess.CompletedProcess[str]:
    """Run the tool where PATH is `path`."""
    words = [sys.executable, str(ROOT / "tools" / "prerequisites.py")]
    return subprocess.run(words, env={"PATH": str(path)}, capture_output=True, text=True, timeout=60)


def provide(folder: Path, program: str, lines: str) -> None:
    """Put a shell script in place of a system program."""
    (folder / program).write_text(f"#!/bin/sh\n{lines}\n")
    (folder / program).chmod(0o755)


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    """A PATH with an apt-get that notes what it is asked, also where these tests are not run by root."""
    provide(tmp_path, "apt-get", f'echo "$*" >> {tmp_path}/asked')
    provide(tmp_path, "sudo", 'shift\nexec "$@"')
    provide(tmp_path, "true", "")
    (tmp_path / "env").symlink_to("/usr/bin/env")
    return tmp_path


def assert_told_in_one_line(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert all(package in line for package in PACKAGES)
    assert "sudo apt-get install --yes --no-install-recommends slurm-wlm" in line


def test_packages_are_installed_where_that_asks_for_nothing(apt: Path) -> None:
    done = prerequisites(apt)
    assert done.returncode == 0, done.stderr
    update, install = (apt / "asked").read_text().splitlines()
    assert update.startswith("update")
    assert install.startswith("install --yes --no-install-recommends")
    assert all(package in install for package in PACKAGES)
    assert done.stdout.startswith("==> installing Debian packages for the tests with a real Slurm: slurm-wlm")


def test_missing_packages_are_told_in_one_line_where_there_is_no_apt(tmp_path: Path) -> None:
    done = prerequisites(tmp_path)
    assert_told_in_one_line(done)
    assert done.stdout == ""


def test_missing_packages_are_told_in_one_line_where_apt_fails(apt: Path) -> None:
    provide(apt, "apt-get", "exit 100")
    assert_told_in_one_line(prerequisites(apt))


def test_nothing_is_installed_that_is_there(apt: Path) -> None:
    program = "import sandbox; print(*(name for names in sandbox.PACKAGES.values() for name in names))"
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env={"PYTHONPATH": str(ROOT / "tools")}, capture_output=True, text=True, check=True)
    for name in done.stdout.split():
        provide(apt, name, "")
    assert prerequisites(apt).returncode == 0
    assert not (apt / "asked").exists()
