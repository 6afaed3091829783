"""`make test` installs the Debian packages that the tests need if it can; otherwise it says in one line which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.real_images import IMAGES_FOLDER

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("slurm-wlm", "slurmdbd", "mariadb-server")  #: their programs are in /usr/bin, which PATH omits below


def prerequisites(path: Path) -> subprocess.CompletedProcess[str]:
    """Run the tool with `path` as PATH."""
    words = [sys.executable, str(ROOT / "tools" / "prerequisites.py")]
    return subprocess.run(words, env={"PATH": str(path)}, capture_output=True, text=True, timeout=60)


def provide(folder: Path, program: str, lines: str) -> None:
    """Write a shell script that replaces a system program."""
    (folder / program).write_text(f"#!/bin/sh\n{lines}\n")
    (folder / program).chmod(0o755)


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    """A PATH with an apt-get that records its arguments, and with a sudo for tests that do not run as root."""
    provide(tmp_path, "apt-get", f'echo "$*" >> {tmp_path}/asked')
    provide(tmp_path, "sudo", 'shift\nexec "$@"')
    provide(tmp_path, "true", "")
    (tmp_path / "env").symlink_to("/usr/bin/env")
    return tmp_path


def assert_named_in_one_line(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert all(package in line for package in PACKAGES)
    assert "sudo apt-get install --yes --no-install-recommends slurm-wlm" in line


def test_missing_packages_are_installed_if_that_needs_no_password(apt: Path) -> None:
    done = prerequisites(apt)
    assert done.returncode == 0, done.stderr
    update, install = (apt / "asked").read_text().splitlines()
    assert update.startswith("update")
    assert install.startswith("install --yes --no-install-recommends")
    assert all(package in install for package in PACKAGES)
    assert done.stdout.startswith("==> installing Debian packages for the tests: slurm-wlm")


def test_missing_packages_are_named_in_one_line_if_there_is_no_apt(tmp_path: Path) -> None:
    done = prerequisites(tmp_path)
    assert_named_in_one_line(done)
    assert done.stdout == ""


def test_missing_packages_are_named_in_one_line_if_apt_fails(apt: Path) -> None:
    provide(apt, "apt-get", "exit 100")
    assert_named_in_one_line(prerequisites(apt))


def test_nothing_is_installed_if_all_programs_exist(apt: Path) -> None:
    program = (
        "from sandbox_files.packages import PACKAGES; print(*(name for names in PACKAGES.values() for name in names))"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env={"PYTHONPATH": str(ROOT / "tools")}, capture_output=True, text=True, check=True)
    for name in done.stdout.split():
        provide(apt, name, "")
    assert prerequisites(apt).returncode == 0
    asked = (apt / "asked").read_text() if (apt / "asked").exists() else ""
    assert "slurm" not in asked
    assert ("dataset-fashion-mnist" in asked) == (not IMAGES_FOLDER.exists())
