"""Names and folders that no file system takes are mistakes of the command, not errors of the program."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jobs.cli import main
from tests.datasets.conftest import put


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    return tmp_path


@pytest.mark.parametrize("words", [["status"], ["train"], ["report"], ["cancel"], ["logs"], ["check"]])
def test_name_that_is_too_long_is_one_line(home: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "a" * 300]) == 2
    assert os.strerror(errno.ENAMETOOLONG) in capsys.readouterr().err
    assert list(home.iterdir()) == []


def test_dataset_whose_links_go_in_a_circle_is_listed_as_wrong_beside_the_others(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(home / "data", "circle/train/cat/1.jpg", "circle/val/cat/2.jpg", "sound/train/cat/1.jpg", "sound/val/cat/2.jpg")
    (home / "data/circle/train/cat/again").symlink_to(".")
    assert main(["data", "list"]) == 0
    lines = {line.split()[1]: line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert (lines["circle"], lines["sound"]) == ("WRONG", "ok")


def test_check_of_a_dataset_whose_links_go_in_a_circle_names_the_place(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(home / "data", "circle/train/cat/1.jpg", "circle/val/cat/2.jpg")
    (home / "data/circle/train/cat/again").symlink_to(".")
    assert main(["data", "check", "circle"]) == 2
    assert "data/circle/train/cat/again" in capsys.readouterr().err
