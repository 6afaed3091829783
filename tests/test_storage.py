"""What a file system refuses, in words, on real file systems; and a run folder that is gone is not created again."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.disks import small_disk
from trex import storage, tensor_files
from trex.errors import ExitCode, TrexError, Unwritable
from trex.files import append_line, write_text
from trex.storage import Space, expect_folder, in_bytes, is_refusal, make_folder, require_space, unwritable


def failure(write: Callable[[], object]) -> OSError:
    with pytest.raises(OSError) as caught:
        write()
    return caught.value


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda folder: write_text(folder / "state.json", "x" * 10_000),
    "line": lambda folder: append_line(folder / "lines.jsonl", "x" * 10_000),
    "tensors": lambda folder: tensor_files.save({"weight": torch.zeros(100_000)}, folder / "checkpoint.pt"),
    "array": lambda folder: np.save(folder / "block.npy", np.zeros(100_000)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_is_named_with_its_file_system_and_what_is_needed(tmp_path: Path, name: str) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        disk.fill(leave=4096)
        error = failure(lambda: WRITERS[name](disk.folder))
        assert is_refusal(error) or name == "tensors"  # PyTorch does not say why
        said = str(unwritable(error, disk.folder, needed=1_500_000))
    assert said.startswith(f"disk full: cannot write {disk.folder}")
    for part in (f"The file system {disk.folder} has ", " free inodes", "1.5 MB are needed", "Delete files there."):
        assert part in said


def test_line_that_is_cut_by_a_full_disk_is_taken_back(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        path = disk.folder / "lines.jsonl"
        append_line(path, "first")
        disk.fill(leave=4096)
        failure(lambda: append_line(path, "x" * 20_000))
        assert path.read_text() == "first\n"
        disk.empty()
        append_line(path, "second")
        assert path.read_text() == "first\nsecond\n"


def test_file_system_without_inodes_is_named(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m,nr_inodes=10") as disk:
        disk.use_up_inodes()
        said = str(unwritable(failure(lambda: write_text(disk.folder / "state.json", "x")), disk.folder))
    assert said.startswith(f"no inodes left: cannot write {disk.folder}/")
    assert "0 free inodes" in said


def test_read_only_file_system_is_named(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        disk.make_read_only()
        error = failure(lambda: write_text(disk.folder / "state.json", "x"))
        assert is_refusal(error)
        assert str(unwritable(error, disk.folder)).startswith(f"read-only file system: cannot write {disk.folder}/")


def test_limit_of_the_file_size_is_named(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; from trex.files import write_text; from trex import storage\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try: write_text(Path(sys.argv[1], 'state.json'), 'x' * 1000)\n"
        "except OSError as error: print(storage.unwritable(error, Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(f"file too large: cannot write {tmp_path}"), done.stderr
    assert "ulimit -f" in done.stdout


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EDQUOT, "quota exceeded: cannot write"),
        (errno.EIO, "input/output error at"),
        (errno.ESTALE, "stale file handle at"),
        (errno.EACCES, "Permission denied: cannot write"),
    ],
)
def test_other_errors_are_put_into_words(tmp_path: Path, number: int, said: str) -> None:
    error = OSError(number, os.strerror(number), str(tmp_path / "file"))
    assert str(unwritable(error, tmp_path)).startswith(f"{said} {tmp_path}/file. The file system ")
    assert unwritable(error, tmp_path).exit_code == ExitCode.UNWRITABLE == 74
    assert is_refusal(error) == (number != errno.EACCES)
    outer = RuntimeError("a library's own words")
    outer.__cause__ = error
    assert is_refusal(outer) == is_refusal(error)


def test_error_without_a_number_is_understood_from_its_words_or_from_the_file_system(tmp_path: Path) -> None:
    hdf5 = RuntimeError(
        "Can't decrement id ref count (file write failed: errno = 122, error message = 'Disk quota exceeded'"
    )
    assert str(unwritable(hdf5, tmp_path)).startswith(f"quota exceeded: cannot write {tmp_path}. ")
    assert is_refusal(hdf5)
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        disk.make_read_only()
        assert str(unwritable(OSError("PyTorch's words"), disk.folder)).startswith(
            "read-only file system: cannot write "
        )


def test_errors_that_have_another_cause_are_no_refusals() -> None:
    found = [is_refusal(error) for error in (ValueError("x"), FileNotFoundError(errno.ENOENT, "x"), TrexError("x"))]
    assert found == [False] * 3


def test_space_is_required_where_the_file_system_says_how_much_it_has(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m,nr_inodes=10") as disk:
        space = Space.at(disk.folder / "not" / "there" / "yet")
        assert (space.mount, space.free, space.read_only) == (disk.folder, 2**20, False)
        require_space(disk.folder, 2**20)
        assert failure(lambda: require_space(disk.folder, 2**20 + 1)).errno == errno.ENOSPC
    assert not Space(tmp_path, None, None, read_only=False).lacks(10**18)


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (89_600_000, "89.6 MB"), (999_960_000, "1.0 GB"), (2e12, "2.0 TB")],
)
def test_bytes_are_told_in_one_unit(size: float, said: str) -> None:
    assert in_bytes(size) == said


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder that is expected to exist."""
    monkeypatch.setattr(storage, "_expected", set())
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    expect_folder(folder)
    return folder


@pytest.mark.parametrize("gone", ["mine", ""])
def test_run_folder_that_was_deleted_is_not_created_again(run: Path, gone: str) -> None:
    make_folder(run / "jobs" / "local")
    assert (run / "jobs" / "local").is_dir()
    shutil.rmtree(run.parent / gone)
    for write in (
        lambda: make_folder(run),
        lambda: make_folder(run / "jobs"),
        lambda: append_line(run / "events.jsonl", "x"),
        lambda: write_text(run / "jobs" / "train.state.json", "x"),
    ):
        with pytest.raises(Unwritable, match=f"{run}: this run folder is gone"):
            write()
    assert not run.exists()
    with pytest.raises(Unwritable, match="is gone"):
        expect_folder(run)


def test_folders_that_belong_to_no_run_are_created(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run)
    make_folder(tmp_path / "elsewhere" / "deep")
    make_folder(run.with_name("mine2"))
    assert [(tmp_path / "elsewhere" / "deep").is_dir(), run.with_name("mine2").is_dir()] == [True, True]
