"""Checkpoints survive kills, damage and full disks, or the error says clearly that they did not."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trex import tensor_files
from trex.errors import TrexError, UserError
from trex.training.checkpoint import Checkpoints


def state(step: int) -> dict:
    return {
        "position": {"epoch": 0, "step": step, "global_step": step},
        "model": {"w": torch.full((1000,), float(step))},
    }


def step_of(checkpoints: Checkpoints) -> int:
    newest = checkpoints.newest()
    assert newest is not None
    return newest.load()["position"]["step"]


@pytest.fixture
def two(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.write(state(1), keep=2)
    checkpoints.write(state(2), keep=2)
    return checkpoints


def newest_file(checkpoints: Checkpoints, name: str = "checkpoint.pt") -> Path:
    return max(checkpoints.folder.glob(f"epoch-*/{name}"))


def test_newest_is_none_without_checkpoints(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "checkpoints").newest() is None


def test_newest_checkpoints_and_milestones_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in range(1, 7):
        checkpoints.write(state(step), keep=2, milestone=step in (1, 3))
    kept = sorted(int(path.name.rsplit("-", 1)[1]) for path in tmp_path.iterdir())
    assert kept == [1, 3, 5, 6]


@pytest.mark.parametrize(
    "damage", ["flip first", "flip middle", "flip last", "truncate", "zeros", "empty", "missing", "folder"]
)
def test_damaged_newest_checkpoint_falls_back_to_the_one_before_it(two: Checkpoints, damage: str, caplog) -> None:
    path = newest_file(two)
    data = bytearray(path.read_bytes())
    place = {"flip first": 0, "flip middle": len(data) // 2, "flip last": -1}.get(damage)
    path.unlink()
    if place is not None:
        data[place] ^= 0xFF
        path.write_bytes(data)
    elif damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"truncate": data[:-100], "zeros": bytes(len(data)), "empty": b""}[damage])
    assert step_of(two) == 1
    assert "step-00000002 is damaged" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"step": 2}'])
def test_damaged_newest_manifest_falls_back_to_the_checkpoint_before_it(two: Checkpoints, text: str) -> None:
    newest_file(two, "manifest.json").write_text(text)
    assert step_of(two) == 1


def test_run_with_only_damaged_checkpoints_is_an_error_and_never_starts_over(two: Checkpoints) -> None:
    for path in two.folder.glob("epoch-*/checkpoint.pt"):
        path.write_bytes(b"")
    with pytest.raises(TrexError, match="all checkpoints are damaged"):
        two.newest()


def test_damaged_checkpoint_of_the_same_step_is_renamed_not_deleted(two: Checkpoints) -> None:
    newest_file(two).write_bytes(b"garbage")
    two.write(state(2), keep=2)
    assert step_of(two) == 2
    aside = next(two.folder.glob("*.damaged-0"))
    assert (aside / "checkpoint.pt").read_bytes() == b"garbage"


WRITER = """
import os, sys, torch
from pathlib import Path
from trex.training import checkpoint
from trex.training.checkpoint import Checkpoints
import trex.files, trex.tensor_files
point, nth = sys.argv[2], int(sys.argv[3])
seen = 0
def dying(function):
    def wrapper(*a, **k):
        global seen
        seen += 1
        if seen == nth:
            os._exit(9)
        return function(*a, **k)
    return wrapper
if point == "fsync": os.fsync = dying(os.fsync)
if point == "rename": Path.rename = dying(Path.rename)
if point == "replace": Path.replace = dying(Path.replace)
if point == "unlink": checkpoint.shutil.rmtree = dying(checkpoint.shutil.rmtree)
state = {"position": {"epoch": 0, "step": 3, "global_step": 3}, "model": {"w": torch.full((1000,), 3.0)}}
Checkpoints(Path(sys.argv[1])).write(state, keep=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "nth"),
    [("fsync", n) for n in range(1, 6)] + [("replace", 1), ("replace", 2), ("rename", 1), ("unlink", 3)],
)
def test_kill_while_writing_leaves_an_intact_newest_checkpoint(two: Checkpoints, point: str, nth: int) -> None:
    command = [sys.executable, "-c", WRITER, str(two.folder), point, str(nth)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert step_of(two) in (2, 3)
    two.remove_unfinished()
    two.write(state(4), keep=2)
    assert step_of(two) == 4
    assert len(list(two.folder.iterdir())) == 2


def test_full_disk_fails_the_save_and_leaves_the_other_checkpoints_intact(two: Checkpoints) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match=r"2000|File too large|cannot write"):
            two.write(state(3), keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert step_of(two) == 2
    assert len(list(two.folder.iterdir())) == 2


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"model": Canary(canary)}, tmp_path / "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Canary(canary), protocol=2))
    for name in ("evil.pt", "evil.pkl"):
        with pytest.raises(UserError, match=name):
            tensor_files.load(tmp_path / name)
    assert not canary.exists()


def test_moved_run_folder_still_resumes(two: Checkpoints, tmp_path: Path) -> None:
    shutil.move(two.folder, tmp_path / "elsewhere")
    assert step_of(Checkpoints(tmp_path / "elsewhere")) == 2
