"""One living job per stage of a run: the lock names its owner, and is taken over only when the owner is surely gone."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from jobs import programs
from jobs.environment import Task
from trex.errors import RunLocked
from trex.records.base import RecordError
from trex.records.lock_owner import LockOwner


@contextlib.contextmanager
def locked(path: Path, task: Task) -> Iterator[None]:
    """Hold the lock file `path` for the length of the block. Records: trex/records/lock_owner.py.

    Raises:
        RunLocked: if another living job holds it, or if it cannot be told whether its owner lives.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = LockOwner(
        job=task.job_id, restart=task.restart, slurm=task.is_slurm, host=socket.gethostname(), pid=os.getpid(),
        process_start=_process_start(os.getpid()), since=round(time.time(), 3), id=uuid.uuid4().hex,
    )  # fmt: skip
    while not _create(path, mine):
        owner = _read(path)
        if owner is None:
            continue  # released in between
        if _is_alive(owner, task, path):
            raise RunLocked(
                f"{path}: job {owner.job} on {owner.host} (process {owner.pid}) is working on it. "
                f"Wait for it, or cancel it first."
            )
        _remove_stale(path, owner)
    try:
        yield
    finally:
        if _is_of(path, mine):
            path.unlink(missing_ok=True)


def _create(path: Path, mine: LockOwner) -> bool:
    """Create the lock with its content in one step: a link to a finished file either exists or does not."""
    temporary = path.with_name(f".{path.name}.{mine.id}")
    mine.write(temporary)
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    finally:
        temporary.unlink()


def _read(path: Path) -> LockOwner | None:
    try:
        return LockOwner.read(path)
    except FileNotFoundError:
        return None
    except RecordError as error:
        raise RunLocked(f"{error}\nIf no job works on this run, delete that file.") from error


def _is_of(path: Path, owner: LockOwner) -> bool:
    """Whether a lock is the one that `owner` took."""
    found = _read(path)
    return found is not None and found.id == owner.id


def _is_alive(owner: LockOwner, task: Task, path: Path) -> bool:
    if owner.slurm:
        if owner.job == task.job_id:
            return owner.restart >= task.restart  # an earlier start of this very job has ended
        answer = programs.run(["squeue", "--noheader", "--jobs", owner.job, "--format", "%T"])
        if answer.ok:
            return answer.stdout.strip() not in ("", "PENDING")
        if "Invalid job id" in answer.stderr:
            return False
        raise RunLocked(
            f"{path}: held by Slurm job {owner.job}, and squeue does not say whether it lives "
            f"({answer.stderr.strip()}). If it does not, delete that file."
        )
    if owner.host != socket.gethostname():
        raise RunLocked(
            f"{path}: held by process {owner.pid} on {owner.host}, which cannot be asked from here. "
            f"If nothing runs there any more, delete that file."
        )
    for _ in range(20):  # a process that was just killed takes a moment to end
        if owner.process_start is None or _process_start(owner.pid) != owner.process_start:
            return False
        time.sleep(0.1)
    return True


def _process_start(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; with the pid it names a process for good."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = text.rsplit(")", 1)[1].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])  # a zombie has ended; only its parent has not looked


def _remove_stale(path: Path, owner: LockOwner) -> None:
    """Remove a dead owner's lock; of several that find it dead, one does.

    The right to remove it is a link to it, named for its owner: only one process can make that. Without it a slower
    process would remove the lock of a quicker one that took over in between.
    """
    right = path.with_name(f".{path.name}.stale-{owner.id}")
    try:
        os.link(path, right)
    except FileNotFoundError:
        return
    except FileExistsError:
        _wait_for_removal(path, owner, right)
        return
    try:
        if _is_of(right, owner):
            path.unlink(missing_ok=True)
    finally:
        right.unlink()


def _wait_for_removal(path: Path, owner: LockOwner, right: Path) -> None:
    """Wait until the process that has the right to remove a lock did so.

    Raises:
        RunLocked: if it did not: it was killed between two lines, and nobody can tell that from being slow.
    """
    for _ in range(100):
        if not _is_of(path, owner):
            return
        time.sleep(0.05)
    raise RunLocked(f"{path}: being taken over by a process that does not end. If none lives, delete it and {right}.")
