"""One running job per stage of a run: which process may take a lock."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.backend import SITE
from jobs.worker import lock
from jobs.worker.lock import locked, require_same_start
from jobs.worker.place import Task
from tests.jobs.conftest import FakeSlurm
from trex.errors import RunLocked, Superseded
from trex.records.lock_owner import LockOwner

TASK = Task("local", "1", rank=0, world=1, local_rank=0, node="here", node_count=1, restart=0, cpus=1)
#: The owner of a lock whose process has ended.
DEAD = LockOwner(
    "1", 0, cluster="", backend="local", host=os.uname().nodename, pid=1 << 22, process_start=None, since=0.0, id="dead"
)


def file(path: Path, number: int = 1) -> Path:
    """Return a file of a lock."""
    return path.with_name(f"{path.name}.{number}")


def hold(path: Path, seconds: float) -> subprocess.Popen[bytes]:
    """Start another process that holds the lock."""
    program = (
        "import time; from pathlib import Path\n"
        "from jobs.backend import SITE; from jobs.worker.lock import locked; from jobs.local.process import this_task\n"
        f"with locked(Path({str(path)!r}), this_task(), SITE):\n    print('held', flush=True); time.sleep({seconds})"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_second_running_process_is_refused_and_the_error_names_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "train.lock"
    other = hold(path, 30)
    try:
        before = file(path).read_bytes()
        with pytest.raises(RunLocked, match=f"process {other.pid}"), locked(path, TASK, SITE):
            pass
        assert file(path).read_bytes() == before
    finally:
        other.kill()
        other.communicate()


def test_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "train.lock"
    other = hold(path, 30)
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert file(path).exists()
    with locked(path, TASK, SITE) as taken:
        assert LockOwner.read(taken.file).pid == os.getpid()
        assert not file(path).exists()
    assert list(tmp_path.iterdir()) == []


def test_reused_process_id_does_not_keep_a_stale_lock(tmp_path: Path) -> None:
    path = tmp_path / "train.lock"
    with locked(path, TASK, SITE) as taken:
        owner = taken.owner
    assert owner.process_start is not None
    replace(owner, process_start=owner.process_start - 1, id="old").write(file(path))
    with locked(path, TASK, SITE):
        pass


def test_lock_of_another_host_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "train.lock"
    replace(DEAD, host="elsewhere").write(file(path))
    with pytest.raises(RunLocked, match=r"elsewhere.*delete that file"), locked(path, TASK, SITE):
        pass
    assert file(path).exists()


def test_unreadable_lock_is_refused_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "train.lock"
    file(path).write_text("garbage")
    with pytest.raises(RunLocked, match="delete that file"), locked(path, TASK, SITE):
        pass


def test_requeued_job_takes_over_the_lock_of_its_earlier_start(tmp_path: Path) -> None:
    path = tmp_path / "train.lock"
    replace(DEAD, job="7", backend="slurm", host="n1").write(file(path))
    again = Task("slurm", "7", rank=0, world=1, local_rank=0, node="n2", node_count=1, restart=1, cpus=1)
    with locked(path, again, SITE) as taken:
        assert LockOwner.read(taken.file).restart == 1


@pytest.mark.parametrize(("state", "taken"), [("RUNNING", False), ("COMPLETING", False), ("PENDING", True)])
def test_lock_of_a_slurm_job_is_taken_over_unless_the_job_has_started(
    fake_slurm: FakeSlurm, tmp_path: Path, state: str, taken: bool
) -> None:
    path = tmp_path / "train.lock"
    replace(DEAD, job="7_1", backend="slurm", host="n1").write(file(path))
    fake_slurm.says("squeue", state)
    refused = contextlib.nullcontext() if taken else pytest.raises(RunLocked, match="job 7_1 on n1")
    with refused, locked(path, TASK, SITE):
        pass
    assert "--jobs 7_1" in fake_slurm.asked("squeue")[0]


@pytest.mark.parametrize(("mine", "asked"), [("big", ":"), ("small", "big:")])
def test_owner_of_a_lock_is_asked_about_on_its_own_cluster(
    fake_slurm: FakeSlurm, tmp_path: Path, mine: str, asked: str
) -> None:
    """Any other cluster would say that it has no such job."""
    path = tmp_path / "train.lock"
    replace(DEAD, job="7", cluster="big", backend="slurm", host="n1").write(file(path))
    program = fake_slurm.folder / "squeue"
    program.write_text(f'#!/bin/sh\necho "$SLURM_CLUSTERS:" >> {program}.asked\necho RUNNING\n')
    program.chmod(0o755)
    task = Task("slurm", "8", rank=0, world=1, local_rank=0, node="n2", node_count=1, restart=0, cpus=1, cluster=mine)
    with pytest.raises(RunLocked), locked(path, task, SITE):
        pass
    assert fake_slurm.asked("squeue") == [asked]


@pytest.mark.usefixtures("fake_slurm")
@pytest.mark.parametrize("kind", ["slurm", "unknown"])
def test_lock_of_a_job_with_unknown_status_is_refused_and_the_error_says_what_to_do(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "train.lock"
    replace(DEAD, job="7", backend=kind, host="n1").write(file(path))
    with pytest.raises(RunLocked, match=r"job 7.*delete that file"), locked(path, TASK, SITE):
        pass
    assert file(path).exists()


def _compete(path: Path, start: float, results: multiprocessing.Queue, all_known: multiprocessing.Event) -> None:
    time.sleep(max(start - time.time(), 0))
    try:
        with locked(path, TASK, SITE):
            results.put("won")
            all_known.wait(30)
    except RunLocked:
        results.put("lost")


@pytest.mark.slow
@pytest.mark.parametrize("stale", [False, True])
def test_exactly_one_of_several_simultaneous_processes_takes_the_lock(tmp_path: Path, stale: bool) -> None:
    path = tmp_path / "train.lock"
    if stale:
        DEAD.write(file(path))
    context = multiprocessing.get_context("fork")
    results, all_known = context.Queue(), context.Event()
    start = time.time() + 0.2
    racers = [context.Process(target=_compete, args=(path, start, results, all_known)) for _ in range(6)]
    for racer in racers:
        racer.start()
    outcomes = sorted(results.get(timeout=20) for _ in racers)
    all_known.set()
    for racer in racers:
        racer.join()
    assert outcomes == ["lost"] * 5 + ["won"]
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_owner_whose_lock_was_taken_over_finds_out_and_leaves_the_new_lock(tmp_path: Path) -> None:
    path = tmp_path / "train.lock"
    first = replace(TASK, backend="slurm", job_id="7")
    second = replace(first, restart=1)
    with locked(path, first, SITE) as old:
        old.check()
        require_same_start(path, first)
        with locked(path, second, SITE) as new:
            new.check()
            with pytest.raises(Superseded, match="job 7, restart 1 on"):
                old.check()
            with pytest.raises(Superseded, match="job 7, restart 1 on"):
                require_same_start(path, first)  # of the other ranks of the first start
            require_same_start(path, second)
        with pytest.raises(Superseded, match="deleted"):  # even if the new owner has ended
            old.check()
        with locked(path, replace(first, restart=2), SITE) as newest:
            assert newest.file == old.file, "the same file name, but another owner"
            with pytest.raises(Superseded, match="job 7, restart 2 on"):
                old.check()
            newest.check()


def test_highest_number_is_deleted_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it went first and this process were killed then, a frozen owner of a lower number would seem to hold it."""
    path = tmp_path / "lock"
    for number in (9, 10, 100):
        DEAD.write(file(path, number))
    deleted = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda self, **more: (deleted.append(self.name), unlink(self, **more))[1])
    with locked(path, TASK, SITE):
        pass
    assert [name for name in deleted if name.startswith("lock.")] == ["lock.9", "lock.10", "lock.100", "lock.101"]


def test_lock_needs_no_hard_links_and_no_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    DEAD.write(file(tmp_path / "train.lock"))
    for name in ("link", "rename", "replace", "symlink"):
        monkeypatch.setattr(os, name, refuse)
    with locked(tmp_path / "train.lock", TASK, SITE) as taken:
        taken.check()
    assert list(tmp_path.iterdir()) == []


def test_empty_lock_of_a_process_that_was_killed_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SECONDS_UNTIL_WRITTEN", 0.2)
    file(tmp_path / "train.lock").touch()
    with locked(tmp_path / "train.lock", TASK, SITE) as taken:
        assert taken.number == 2


KILLED = """
import os, sys
from pathlib import Path
from jobs.backend import SITE
from jobs.local.process import this_task
from jobs.worker import lock
from jobs.worker.lock import locked

left = int(sys.argv[2])

def count(event, _arguments):
    global left
    if event in ("open", "os.remove", "os.mkdir", "os.listdir", "os.scandir") and ready:
        left -= 1
        if left < 0:
            os._exit(9)

ready = False
sys.addaudithook(count)
ready = True
with locked(Path(sys.argv[1]), this_task(), SITE):
    pass
os._exit(0)
"""


@pytest.mark.long
@pytest.mark.slow
def test_process_that_is_killed_before_any_file_operation_never_blocks_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SECONDS_UNTIL_WRITTEN", 0.2)
    codes = []
    for operation in range(40):
        path = tmp_path / str(operation) / "train.lock"
        path.parent.mkdir()
        DEAD.write(file(path))  # the killed process takes over this lock
        codes.append(subprocess.run([sys.executable, "-c", KILLED, str(path), str(operation)], check=False).returncode)
        with locked(path, TASK, SITE) as taken:
            taken.check()
        assert list(path.parent.iterdir()) == []
        if codes[-1] == 0:
            break
    assert codes[-1] == 0, "all operations were tried"
    assert len(codes) > 8
    assert set(codes[:-1]) == {9}
