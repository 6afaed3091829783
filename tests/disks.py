"""Real file systems that are small, out of inodes or read-only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A file system in memory that a test fills and empties."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def fill(self, leave: int = 0) -> None:
        """Write until less than a block more than `leave` bytes are free."""
        with self._filler.open("ab", buffering=0) as file:
            file.truncate(0)
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                file.truncate(max(file.tell() - leave, 0))

    def use_up_inodes(self) -> None:
        number = 0
        try:
            while True:
                (self.folder / f"filler-{number}").touch()
                number += 1
        except OSError:
            return

    def empty(self) -> None:
        """Delete what the test has filled it with."""
        for path in self.folder.glob("filler*"):
            path.unlink()

    def make_read_only(self) -> None:
        """Make the whole file system read-only."""
        make_read_only(self.folder)

    def make_writable(self) -> None:
        """Take back `make_read_only`."""
        make_writable(self.folder)


def make_read_only(path: Path) -> None:
    """Mount a file or folder over itself, read-only. What is open already can still be written."""
    for options in (["--bind", path], ["-o", "remount,bind,ro"]):
        subprocess.run(["/bin/mount", *options, path], check=True)


def make_writable(path: Path) -> None:
    """Take back `make_read_only`."""
    subprocess.run(["/bin/umount", path], check=True)


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[SmallDisk]:
    """Mount a file system at a new folder, with options of tmpfs such as `size=1m`. Skips where this is not allowed."""
    folder.mkdir()
    made = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"mounting a file system is not allowed here: {made.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        while folder.is_mount():
            subprocess.run(["/bin/umount", "--lazy", folder], check=True)
