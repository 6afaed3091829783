"""No line of metrics.jsonl is lost or doubled, whatever the file system refuses and whenever the run is killed."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from pathlib import Path

import pytest

from tests.disks import small_disk
from trex.errors import Superseded
from trex.files import checked_writes
from trex.records import metrics
from trex.records.metrics import MetricsFile, MetricsLine


def line(step: int, padding: int = 0) -> MetricsLine:
    return MetricsLine("train", step, 0.5, {"loss" + "x" * padding: 1.0}, 0.0)


def steps(path: Path) -> list[int]:
    return [one.step for one in MetricsLine.read_lines(path).strict()]


def test_lines_that_a_full_disk_refuses_are_written_later_in_order(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        path = disk.folder / "metrics.jsonl"
        file = MetricsFile(path)
        file.append(line(1))
        disk.fill()
        for step in (2, 3):
            with pytest.raises(OSError, match="No space left"):
                file.append(line(step, padding=5000))
        disk.empty()
        file.append(line(4))
        assert steps(path) == [1, 2, 3, 4]


def test_checkpoint_holds_the_lines_that_the_file_lacks(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        path = disk.folder / "metrics.jsonl"
        file = MetricsFile(path)
        file.append(line(1))
        file.write(sync=True)
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            file.append(line(2, padding=5000))
        position, kept = file.position, list(file.kept)  # what a checkpoint would get
        disk.empty()
        file.append(line(3))
        resumed = MetricsFile(path, position, kept)
        resumed.write()
        assert steps(path) == [1, 2]
        resumed.append(line(3))
        assert steps(path) == [1, 2, 3]


def test_lines_are_kept_until_they_are_flushed_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append(line(1))

    def fails(_file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="Input/output"):
            file.write(sync=True)
    assert (file.position, len(file.kept)) == (0, 1)
    file.write(sync=True)
    assert (file.position, file.kept) == ((tmp_path / "metrics.jsonl").stat().st_size, [])


def test_file_that_is_shorter_than_the_checkpoint_says_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, position=1000)
    file.append(line(1))
    assert steps(path) == [1]


def test_start_that_was_superseded_neither_appends_nor_cuts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    successor = MetricsFile(path)
    successor.append(line(1))
    superseded = MetricsFile(path)  # it would cut the file at 0 first

    def refuse() -> None:
        raise Superseded("a later start has taken over the run")

    with checked_writes(refuse), pytest.raises(Superseded):
        superseded.append(line(2))
    assert steps(path) == [1]


class FailingDisk:
    """Lets some writes end early, and some flushes fail and lose what was written since the last one."""

    def __init__(self, path: Path, random: random.Random) -> None:
        self.path, self.random, self.fails, self.safe = path, random, True, 0

    def _fails(self) -> bool:
        return self.fails and self.random.random() < 0.4

    def write(self, file: int, data: memoryview) -> int:
        if self._fails():
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(file, data[: self.random.randint(1, len(data))] if self.fails else data)

    def fsync(self, file: int) -> None:
        if self._fails():
            lost = self.random.randint(self.safe, os.fstat(file).st_size)
            os.ftruncate(file, lost)
            raise OSError(errno.EIO, "Input/output error")
        self.safe = os.fstat(file).st_size

    def ftruncate(self, file: int, size: int) -> None:
        if self._fails():
            raise OSError(errno.EIO, "Input/output error")
        os.ftruncate(file, size)
        self.safe = min(self.safe, size)

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


def test_lines_are_forgotten_up_to_the_mark_before_which_they_were_flushed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    file.append(line(1))
    mark, end = file.mark(), path.stat().st_size
    assert mark is not None
    file.append(line(2))
    assert (file.position, len(file.kept)) == (0, 2), "nothing was flushed yet"
    file.sync()
    file.synced(mark)
    assert (file.position, len(file.kept)) == (end, 1)
    file.append(line(3))
    assert steps(path) == [1, 2, 3]
    resumed = MetricsFile(path, file.position, file.kept)
    resumed.write()
    assert steps(path) == [1, 2, 3]


@pytest.mark.parametrize("seed", range(200))
def test_every_line_is_there_once_after_any_failures_and_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    path, generator = tmp_path / "metrics.jsonl", random.Random(seed)
    disk = FailingDisk(path, generator)
    monkeypatch.setattr(metrics, "os", disk)
    file, step, saved, mark = MetricsFile(path), 0, (0, 0, []), None
    for _ in range(60):
        with contextlib.suppress(OSError):
            match generator.randrange(6):
                case 0:  # a checkpoint that is written at once
                    mark = None
                    with contextlib.suppress(OSError):
                        file.write(sync=True)
                    saved = (step, file.position, list(file.kept))
                case 1 if generator.random() < 0.4:  # killed, and started again from the newest checkpoint
                    step, file, mark = saved[0], MetricsFile(path, *saved[1:]), None
                    file.write()
                case 2:  # a checkpoint in the background
                    if mark is not None:
                        try:
                            file.sync()
                            file.synced(mark)
                        except OSError:
                            file.doubt()
                    mark = file.mark()
                    saved = (step, file.position, list(file.kept))
                case _:
                    step += 1
                    file.append(line(step))
    disk.fails = False
    file.write(sync=True)
    assert steps(path) == list(range(1, step + 1))
    assert (file.kept, file.position) == ([], path.stat().st_size)
