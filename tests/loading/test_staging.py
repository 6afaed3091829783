"""Packs are copied once per node and read from there, whatever happens to a copy, and in place if there is none."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.disks import small_disk
from tests.pictures import write_noise
from trex.config.schema import DataConfig
from trex.datasets.members import Member
from trex.datasets.pack import write_pack
from trex.datasets.registry import load_splits
from trex.distributed import Ranks
from trex.errors import Interrupted
from trex.interruption import StopRequest
from trex.loading import staging
from trex.loading.listing import Splits, list_splits
from trex.loading.staging import Staging
from trex.time_limit import TimeLimit

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
OWN = f"trex-{os.getuid()}"


def make_pack(root: Path, images: int = 3) -> None:
    shutil.rmtree(root / "mine", ignore_errors=True)
    write_noise(root / "mine", images=images, size=8)
    splits = load_splits("mine", DataConfig(root=str(root)), packs=False)
    write_pack(splits, root / "mine.pack", lambda _: None, file_bytes=2000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a pack of several files."""
    make_pack(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder of a node."""
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def listed(root: Path, folder: Path | str, ranks: Ranks | None = None, stop: StopRequest | None = None) -> Splits:
    here = Staging(str(folder), "n1", copies=True)
    return list_splits("mine", DataConfig(root=str(root)), ranks or Ranks(), stop or StopRequest(), here)


def places(splits: Splits) -> set[Path]:
    """The folders from which images are read, each of which is read."""
    found = set()
    for split in splits.values():
        for index in range(len(split)):
            file = split.file(index)
            assert isinstance(file, Member)
            assert split.content(index)
            found.add(file.file.path.parent)
    return found


def bits(splits: Splits) -> list[bytes | str]:
    return [text for split in splits.values() for text in (split.digest, *map(split.content, range(len(split))))]


@contextlib.contextmanager
def locked(disk: Path) -> Iterator[None]:
    """Copy to this node in another process, which does not end."""
    (disk / OWN).mkdir(mode=0o700, exist_ok=True)
    handle = os.open(disk / OWN, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def test_copy_has_the_same_bits_is_private_and_is_used_by_the_next_job(root: Path, disk: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    in_place = bits(load_splits("mine", DataConfig(root=str(root))))
    splits = listed(root, disk)
    assert f"mine: read from a copy in {disk} on 1 node: " in caplog.messages[-1]
    assert " copied in " in caplog.messages[-1]
    (copy,) = places(splits)
    assert copy.parent == disk / OWN
    assert (copy.parent.stat().st_mode & 0o777, copy.stat().st_mode & 0o777) == (0o700, 0o700)
    assert bits(splits) == in_place
    assert len([*copy.iterdir()]) > 2
    written = {path: path.stat().st_ino for path in copy.iterdir()}
    assert places(listed(root, disk)) == {copy}
    assert {path: path.stat().st_ino for path in copy.iterdir()} == written
    assert caplog.messages[-1].endswith("was there already")


def test_changed_pack_is_another_copy_and_a_shortened_copy_is_made_again(root: Path, disk: Path) -> None:
    listed(root, disk)
    (copy,) = (disk / OWN).iterdir()
    os.truncate(next(copy.iterdir()), 100)
    assert places(listed(root, disk)) == {copy}
    shutil.rmtree(root / "mine.pack")
    make_pack(root, images=4)
    splits = listed(root, disk)
    assert places(splits).isdisjoint({copy})
    assert bits(splits) == bits(load_splits("mine", DataConfig(root=str(root))))


def on_a_node(ranks: Ranks, root: str, disk: str) -> tuple[list[str], list[str | bytes], bool]:
    """Two ranks on each of two nodes: the folders that are read, the content, whether this rank wrote a copy."""
    node, written = f"n{ranks.rank // 2}", []
    os.environ["NODE_DISK"] = f"{disk}/{node}"
    sys.addaudithook(lambda event, values: written.append(values[1]) if event == "os.rename" else None)
    here = Staging("$NODE_DISK", node, copies=ranks.rank % 2 == 0)
    splits = list_splits("mine", DataConfig(root=root), ranks, StopRequest(), here)
    return sorted(map(str, places(splits))), bits(splits), bool(written)


def test_each_node_copies_once_and_reads_its_own_copy(root: Path, disk: Path, on_ranks) -> None:
    for node in ("n0", "n1"):
        (disk / node).mkdir()
    said = on_ranks(4, on_a_node, str(root), str(disk))
    assert [len(folders) for folders, *_ in said] == [1] * 4
    assert [Path(folders[0]).parents[1].name for folders, *_ in said] == ["n0", "n0", "n1", "n1"]
    assert all(content == said[0][1] for _, content, _ in said)
    assert [copied for *_, copied in said] == [True, False, True, False]


def test_node_without_a_folder_reads_in_place_and_the_others_do_not(root: Path, disk: Path, on_ranks) -> None:
    (disk / "n0").mkdir()
    said = on_ranks(4, on_a_node, str(root), str(disk))
    assert [Path(folders[0]).name == "mine.pack" for folders, *_ in said] == [False, False, True, True]
    assert all(content == said[0][1] for _, content, _ in said)


KILLED = """
import os, signal, sys
from tests.loading.test_staging import listed
from trex.loading import staging

whole = staging.sync

def kill(path):
    whole(path)
    if path.suffix == ".tar":
        os.kill(os.getpid(), signal.SIGKILL)

staging.sync = kill
listed(*sys.argv[1:])
"""


def test_killed_copy_is_never_used_and_the_next_job_begins_again(root: Path, disk: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, root, disk])
    assert killed.returncode == -signal.SIGKILL
    assert [path.name[:12] for path in (disk / OWN).iterdir()] == [".unfinished-"]
    (copy,) = places(listed(root, disk))
    assert [*(disk / OWN).iterdir()] == [copy]


def in_place(root: Path, folder: Path | str, caplog, ranks: Ranks | None = None) -> str:
    """List a pack that cannot be copied, and return the only warning."""
    caplog.clear()
    assert places(listed(root, folder, ranks)) == {root / "mine.pack"}
    (line,) = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    start = f"mine: read in place, from {root}/mine.pack, on n1: "
    assert line.startswith(start)
    return line.removeprefix(start)


def test_disk_without_space_is_noticed_before_anything_is_copied(root: Path, tmp_path: Path, caplog) -> None:
    with small_disk(tmp_path / "small", "size=12k") as small:
        assert in_place(root, small.folder, caplog).startswith(f"the file system {small.folder} has ")
        assert not [*(small.folder / OWN).iterdir()]


def test_disk_that_becomes_full_leaves_nothing(root: Path, tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(staging.Space, "lacks", lambda *_: False)
    with small_disk(tmp_path / "small", "size=12k") as small:
        assert "No space left on device" in in_place(root, small.folder, caplog)
        assert not [*(small.folder / OWN).iterdir()]


@pytest.mark.parametrize(
    ("folder", "problem"),
    [
        ("{disk}/none", "{disk}/none: No such file or directory"),
        ("$NOT_SET_HERE/x", "NOT_SET_HERE is not set in this environment"),
        ("$NODE_DISK", "$NODE_DISK is 'relative' on this node: expected an absolute path"),
    ],
)
def test_folder_that_is_not_there_is_one_warning(
    root: Path, disk: Path, caplog, monkeypatch, folder: str, problem: str
) -> None:
    monkeypatch.setenv("NODE_DISK", "relative")
    assert problem.format(disk=disk) in in_place(root, folder.format(disk=disk), caplog)


def link(disk: Path) -> None:
    (disk / "other").mkdir(mode=0o700)
    (disk / OWN).symlink_to(disk / "other")


def foreign(disk: Path) -> None:
    (disk / OWN).mkdir(mode=0o700)
    os.chown(disk / OWN, 65534, 65534)


def open_to_others(disk: Path) -> None:
    (disk / OWN).mkdir()
    (disk / OWN).chmod(0o777)


def without_sticky_bit(disk: Path) -> None:
    disk.chmod(0o777)


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (link, f"/{OWN}: is a link, belongs to another user or is open to others"),
        pytest.param(foreign, f"/{OWN}: is a link, belongs to another user or is open to others", marks=as_root),
        (open_to_others, f"/{OWN}: is a link, belongs to another user or is open to others"),
        (without_sticky_bit, ": other users could replace what is in it"),
    ],
)
def test_folder_in_which_others_could_put_data_is_refused(
    root: Path, disk: Path, caplog, prepare: Callable[[Path], None], problem: str
) -> None:
    prepare(disk)
    assert in_place(root, disk, caplog).startswith(f"{disk}{problem}")


def test_damaged_pack_is_not_copied(root: Path, disk: Path, caplog) -> None:
    path = root / "mine.pack/test-00000.tar"
    content = bytearray(path.read_bytes())
    content[0] ^= 1  # in the header of the tar, which is not read
    path.write_bytes(content)
    assert in_place(root, disk, caplog) == f"{path}: its bytes are not those of the index: copy the pack again"
    assert not [*(disk / OWN).iterdir()]


def test_what_is_no_pack_is_read_in_place(root: Path, disk: Path, caplog) -> None:
    shutil.rmtree(root / "mine.pack")
    listed(root, disk)
    assert caplog.messages == ["mine: read in place, because it is no pack; to make one: trex data pack mine"]
    caplog.clear()
    list_splits("digits", DataConfig(), Ranks(), StopRequest(), Staging(str(disk), "n1", copies=True))
    assert not caplog.messages
    assert not [*disk.iterdir()]


def test_job_waits_for_another_job_of_the_node_that_copies(root: Path, disk: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(staging, "_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    results: list[Splits] = []
    with locked(disk):
        job = threading.Thread(target=lambda: results.append(listed(root, disk)))
        job.start()
        deadline = time.monotonic() + 60
        while "another job on the node" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not [*(disk / OWN).iterdir()]
    job.join()
    assert next(iter(places(results[0]))).parent == disk / OWN


def test_copy_that_does_not_move_is_given_up(root: Path, disk: Path, caplog) -> None:
    with locked(disk):
        problem = in_place(root, disk, caplog, Ranks(limit=TimeLimit(start=0.2)))
    assert problem == "nothing was copied for 0.2 s (limits.start_seconds)"


def stopped(ranks: Ranks, root: str, disk: str) -> str:
    """The signal reaches the rank that only waits. The other one waits for the lock of the node."""
    stop = StopRequest().install()
    if not ranks.is_main:
        threading.Timer(1.0, signal.pthread_kill, [threading.main_thread().ident, signal.SIGTERM]).start()
    here = Staging(disk, "n1", copies=ranks.is_main)
    with pytest.raises(Interrupted) as caught:
        list_splits("mine", DataConfig(root=root), ranks, stop, here)
    return str(caught.value)


def test_signal_to_any_rank_ends_the_wait_of_all(root: Path, disk: Path, on_ranks) -> None:
    with locked(disk):
        said = on_ranks(2, stopped, str(root), str(disk))
    assert said == ["stopped before the work started; the same command starts it"] * 2
