"""One living job per stage of a run: the lock names its owner, and is taken over only when the owner is surely gone."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from jobs.worker.place import Site, Task
from trex.errors import RunLocked
from trex.records.base import RecordError
from trex.records.lock_owner import LockOwner


@contextlib.contextmanager
def locked(path: Path, task: Task, site: Site) -> Iterator[None]:
    """Hold the lock file `path` for the length of the block. Records: trex/records/lock_owner.py.

    Raises:
        RunLocked: if another living job holds it, or if it cannot be told whether its owner lives.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = LockOwner(
        job=task.job_id, restart=task.restart, backend=task.backend, host=socket.gethostname(), pid=os.getpid(),
        process_start=process_start(os.getpid()), since=round(time.time(), 3), id=uuid.uuid4().hex,
    )  # fmt: skip
    while not _create(path, mine):
        owner = _read(path)
        if owner is None:
            continue  # released in between
        if _lives(owner, task, site, path):
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


def _lives(owner: LockOwner, task: Task, site: Site, path: Path) -> bool:
    try:
        return site.owner_lives(owner, task)
    except RunLocked as error:
        raise RunLocked(f"{path}: {error}. If it has ended, delete that file.") from error


def process_start(pid: int) -> int | None:
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
