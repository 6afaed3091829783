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


def test_links_that_go_in_a_circle_are_left_out_and_counted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(home / "data", "circle/train/cat/1.jpg", "circle/val/cat/2.jpg", "sound/train/cat/1.jpg", "sound/val/cat/2.jpg")
    for link, target in (("cat/again", "."), ("cat/up", "../.."), ("self", "self"), ("all", "..")):
        (home / "data/circle/train" / link).symlink_to(target)
    assert main(["data", "list"]) == 0
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["sound"].startswith("ok")
    assert lines["circle"].startswith("ok")
    assert lines["circle"].endswith("1 + 1 images of 1 classes; left out of trainval: 3 links to a folder around it")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ["train", "trex_star", "--dry-run", "runs=$NOWHERE/runs"],
            "'runs' is '$NOWHERE/runs', but NOWHERE is",
        ),
        (["data", "list", "data.root=~nobody_here/data"], "'data.root' is '~nobody_here/data', but there is no such"),
        (["export", "mine", "--to", "$NOWHERE/w.pth"], "the path is '$NOWHERE/w.pth', but NOWHERE is not set"),
        (["report", "mine", "--to", "${NOWHERE}"], "the path is '${NOWHERE}', but NOWHERE is not set"),
        (["train", "$NOWHERE/recipe.yaml"], "the path is '$NOWHERE/recipe.yaml', but NOWHERE is not set"),
    ],
)
def test_variable_that_is_not_set_is_named_and_no_folder_gets_its_name(
    home: Path, words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "runs/mine").mkdir(parents=True)
    (home / "runs/mine/config.yaml").write_text("name: mine\n")
    assert main(words) == 2
    assert named in capsys.readouterr().err
    assert sorted(path.name for path in home.rglob("*")) == ["config.yaml", "mine", "runs"]


def test_variables_are_replaced_before_a_run_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCRATCH", f"{home}/scratch")
    assert main(["train", "trex_star", "--cluster", "local", "--dry-run", "runs=$SCRATCH/runs"]) in (0, 2)
    captured = capsys.readouterr()
    assert "$SCRATCH" not in captured.out + captured.err
    assert f"{home}/scratch/runs" in captured.out + captured.err
