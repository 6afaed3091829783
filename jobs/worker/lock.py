"""Allows one running job per stage of a run. A lock names its owner and is taken over only if the owner has ended."""

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
    """Hold the lock file `path` during the block. Its format is in trex/records/lock_owner.py.

    Raises:
        RunLocked: if another running job holds it, or if it is not known whether its owner still runs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = LockOwner(
        job=task.job_id, restart=task.restart, backend=task.backend, host=socket.gethostname(), pid=os.getpid(),
        process_start=process_start(os.getpid()), since=round(time.time(), 3), id=uuid.uuid4().hex,
    )  # fmt: skip
    while not _create(path, mine):
        owner = _read(path)
        if owner is None:
            continue  # released in the meantime
        if _is_alive(owner, task, site, path):
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
    """Create the lock together with its content, by linking a finished file; return False if the lock exists."""
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
        raise RunLocked(f"{error}\nIf no job is working on this run, delete that file.") from error


def _is_of(path: Path, owner: LockOwner) -> bool:
    """Return whether `owner` took the lock at `path`."""
    found = _read(path)
    return found is not None and found.id == owner.id


def _is_alive(owner: LockOwner, task: Task, site: Site, path: Path) -> bool:
    try:
        return site.owner_is_alive(owner, task)
    except RunLocked as error:
        raise RunLocked(f"{path}: {error}. If it has ended, delete that file.") from error


def process_start(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot, or None if it has ended.

    A process id can be used again; together with the start time it is unique.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = text.rsplit(")", 1)[1].split()
    return (
        None if fields[0] in ("Z", "X") else int(fields[19])
    )  # a zombie has ended; its parent has not called wait yet


def _remove_stale(path: Path, owner: LockOwner) -> None:
    """Remove the lock of an owner that has ended, in only one of the processes that try.

    The process that creates a second link to the lock, named after the owner, may remove it; only one can create the
    link. Otherwise a slow process could remove the new lock of a faster one.
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
    """Wait until the process that may remove the lock has done so.

    Raises:
        RunLocked: if it has not after 5 seconds. It was probably killed in between, but it may also be slow.
    """
    for _ in range(100):
        if not _is_of(path, owner):
            return
        time.sleep(0.05)
    raise RunLocked(
        f"{path}: another process began to take over this lock and did not finish. If no job is working on this run, "
        f"delete this file and {right}."
    )
