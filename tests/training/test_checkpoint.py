"""Checkpoints survive kills, damage and full disks, or the error says clearly that they did not."""

from __future__ import annotations

import errno
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
from trex.files import sha256
from trex.stand_ins import read_file
from trex.training import checkpoint
from trex.training.checkpoint import Checkpoints


def state(step: int, epoch: int = 0) -> dict:
    return {
        "position": {"epoch": epoch, "step": step, "global_step": step},
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


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_damaged_newest_checkpoint_does_not_count_and_the_written_one_stays(tmp_path: Path) -> None:
    Checkpoints(tmp_path).write(state(100), keep=1)
    Checkpoints(tmp_path).write(state(200), keep=2)
    (tmp_path / "epoch-0000-step-00000200" / "checkpoint.pt").write_bytes(b"garbage")
    resumed = Checkpoints(tmp_path)
    assert step_of(resumed) == 100
    resumed.tidy(resumed.newest())
    resumed.write(state(150), keep=1)
    kept = ["epoch-0000-step-00000100", "epoch-0000-step-00000150", "epoch-0000-step-00000200.damaged-0"]
    assert names(resumed) == kept
    assert step_of(resumed) == 150


def test_checkpoint_just_written_stays_also_if_newer_ones_exist(two: Checkpoints) -> None:
    written = two.write(state(0), keep=1)
    assert written.path.exists()
    assert step_of(two) == 2


def test_damage_in_the_middle_is_found_before_an_older_checkpoint_is_deleted(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        Checkpoints(tmp_path).write(state(step), keep=3)
    path = tmp_path / "epoch-0000-step-00000002" / "checkpoint.pt"
    path.write_bytes(bytes(path.stat().st_size))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(state(4), keep=3)
    assert [name[-1] for name in names(checkpoints) if "damaged" not in name] == ["1", "3", "4"]


def test_last_intact_checkpoint_stays_if_all_newer_ones_are_damaged(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        Checkpoints(tmp_path).write(state(step), keep=3)
        if step > 1:
            (tmp_path / f"epoch-0000-step-0000000{step}" / "manifest.json").unlink()
    checkpoints = Checkpoints(tmp_path)
    newest = checkpoints.newest()
    checkpoints.tidy(newest)
    assert newest is not None
    assert step_of(checkpoints) == 1
    assert sum("damaged" in name for name in names(checkpoints)) == 2


def test_checkpoint_that_cannot_be_read_now_is_neither_renamed_nor_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        Checkpoints(tmp_path).write(state(step), keep=2)

    def stale(path: Path) -> str:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(checkpoint, "sha256", stale)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(state(3), keep=2)
    assert [name[-1] for name in names(checkpoints)] == ["1", "2", "3"]


def test_only_damaged_checkpoints_that_were_renamed_are_an_error_too(two: Checkpoints) -> None:
    for path in two.folder.glob("epoch-*"):
        path.rename(f"{path}.damaged-0")
    with pytest.raises(TrexError, match="all checkpoints are damaged"):
        two.newest()


def test_epochs_and_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for epoch in (9998, 9999, 10000, 10001):
        checkpoints.write(state(100_000_000, epoch), keep=2)
    assert [name.split("-")[1] for name in names(checkpoints)] == ["10000", "10001"]
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.path.name == "epoch-10001-step-100000000"


def test_checkpoint_is_hashed_only_while_it_is_written(two: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    for name, function in (("sha256", sha256), ("read_file", read_file)):
        monkeypatch.setattr(checkpoint, name, lambda path, function=function: read.append(path) or function(path))
    for step in (3, 4, 5):
        two.write(state(step), keep=2)
    assert read == []
    assert step_of(Checkpoints(two.folder)) == 5
    assert len(read) == 1, "comparing its SHA-256 and loading it reads the file once"


@pytest.mark.parametrize("name", ["checkpoint.pt", "manifest.json"])
def test_fifo_in_place_of_a_file_does_not_block(two: Checkpoints, name: str) -> None:
    newest_file(two, name).unlink()
    os.mkfifo(two.folder / "epoch-0000-step-00000002" / name)
    assert step_of(two) == 1


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
if point == "rename": os.rename = dying(os.rename)
if point == "replace": os.replace = dying(os.replace)
if point == "unlink": os.unlink = dying(os.unlink)
state = {"position": {"epoch": 0, "step": 3, "global_step": 3}, "model": {"w": torch.full((1000,), 3.0)}}
Checkpoints(Path(sys.argv[1])).write(state, keep=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "nth"),
    [("fsync", n) for n in range(1, 6)]
    + [("replace", 1), ("replace", 2), ("replace", 3), ("rename", 1)]
    + [("unlink", n) for n in range(1, 5)],
)
def test_kill_while_writing_leaves_an_intact_newest_checkpoint(two: Checkpoints, point: str, nth: int) -> None:
    command = [sys.executable, "-c", WRITER, str(two.folder), point, str(nth)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert step_of(two) in (2, 3)
    two.tidy(two.newest())
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
