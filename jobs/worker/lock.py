"""Allows one running job per stage of a run. A lock names its owner and is taken over only if the owner has ended.

The lock of `train` is a file `train.lock.N`, and the highest N counts. A process takes the lock by creating the file
with the next number, which only one process can do; it needs neither links nor renames. So a process that is killed at
any moment leaves nothing that a person must delete. An owner whose lock was taken over, for example because its node
did not respond for a while, finds out before it writes again (`Lock.check`).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.worker.place import Site, Task
from trex.errors import RunLocked, Superseded
from trex.records.base import RecordError
from trex.records.lock_owner import LockOwner

#: How long a lock may be empty before it counts as one whose creator was killed.
SECONDS_UNTIL_WRITTEN = 10.0
#: How long a lock must be missing before its owner ends. A network file system can miss a file for a moment.
_SECONDS_MISSING = 3.0


@dataclass(frozen=True)
class Lock:
    """A lock file and the process that created it."""

    path: Path
    number: int  #: of the file
    owner: LockOwner

    @property
    def file(self) -> Path:
        """The lock file."""
        return _file(self.path, self.number)

    def check(self) -> None:
        """Raise Superseded if another process has taken the lock over. Call this before each write of a shared file."""
        deadline = time.monotonic() + _SECONDS_MISSING
        while True:
            if (newer := _read(_file(self.path, self.number + 1))) is not None:
                raise _superseded(self.path, newer)
            try:
                found = LockOwner.read(self.file)
            except FileNotFoundError:
                if not self.path.parent.is_dir():
                    return  # the run folder is gone, which the write reports
                if time.monotonic() > deadline:
                    raise Superseded(
                        f"{self.file}: the lock of this job was deleted, so another start may work on the run: this "
                        f"one ends without writing. `trex status` shows what runs"
                    ) from None
                time.sleep(0.1)
                continue
            except RecordError as error:
                if isinstance(error.__cause__, OSError):
                    return  # it cannot be read now; the write itself will tell whether the file system fails
                raise Superseded(f"{error}: this start no longer has the lock of the run, and ends") from error
            if found.id != self.owner.id:
                raise _superseded(self.path, found)
            return


@contextlib.contextmanager
def locked(path: Path, task: Task, site: Site) -> Iterator[Lock]:
    """Hold the lock `path` during the block. Its format is in trex/records/lock_owner.py.

    Raises:
        RunLocked: if another running job holds it, or if it is not known whether its owner still runs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = LockOwner(
        job=task.job_id, restart=task.restart, cluster=task.cluster, backend=task.backend, host=socket.gethostname(),
        pid=os.getpid(), process_start=process_start(os.getpid()), since=round(time.time(), 3), id=uuid.uuid4().hex,
    )  # fmt: skip
    while True:
        number = max(lock_numbers(path), default=0)
        if number and not _may_take_over(path, number, task, site):
            continue  # released or taken over in the meantime
        if _create(_file(path, number + 1), mine):
            break
    lock = Lock(path, number + 1, mine)
    try:
        _delete(path, number)
        yield lock
    finally:
        with contextlib.suppress(Superseded, OSError):
            lock.check()
            _delete(path, lock.number)


def require_same_start(path: Path, task: Task) -> None:
    """Raise Superseded if the lock belongs to another start than that of `task`, whose rank 0 takes the lock."""
    newest = max(lock_numbers(path), default=0)
    owner = _read(_file(path, newest)) if newest else None
    if owner is not None and (owner.backend, owner.job, owner.restart) != (task.backend, task.job_id, task.restart):
        raise _superseded(path, owner)


def lock_numbers(path: Path) -> list[int]:
    """Return the numbers of the files of the lock `path`, ascending."""
    endings = (name.name.removeprefix(f"{path.name}.") for name in path.parent.glob(f"{path.name}.*"))
    return sorted(int(ending) for ending in endings if ending.isascii() and ending.isdecimal())


def _file(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _create(file: Path, mine: LockOwner) -> bool:
    """Create a lock file; return False if it exists, or if another process is already past it."""
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "wb") as opened:
        opened.write(json.dumps(mine.to_json()).encode())
        opened.flush()
        os.fsync(handle)
    return True


def _delete(path: Path, up_to: int) -> None:
    """Delete the lock files up to a number, the highest last: if this is interrupted, the highest still counts."""
    for number in lock_numbers(path):
        if number <= up_to:
            _file(path, number).unlink(missing_ok=True)


def _read(file: Path) -> LockOwner | None:
    """Return the owner of a lock file; None if the file does not exist or its creator was killed before it wrote it."""
    deadline = time.monotonic() + SECONDS_UNTIL_WRITTEN
    while True:
        try:
            return LockOwner.read(file)
        except FileNotFoundError:
            return None
        except RecordError as error:
            if _size(file):
                raise RunLocked(f"{error}\nIf no job is working on this run, delete that file.") from error
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _may_take_over(path: Path, number: int, task: Task, site: Site) -> bool:
    """Return True if the owner of a lock file has ended, and False if the file is not the newest one any more.

    Raises:
        RunLocked: if the owner runs, or if that cannot be found out.
    """
    file = _file(path, number)
    owner = _read(file)
    if max(lock_numbers(path), default=0) != number:
        return False
    if owner is not None and _is_alive(owner, task, site, file):
        raise RunLocked(
            f"{file}: job {owner.job} on {owner.host} (process {owner.pid}) is working on it. "
            f"Wait for it, or cancel it first."
        )
    return True


def _is_alive(owner: LockOwner, task: Task, site: Site, file: Path) -> bool:
    try:
        return site.owner_is_alive(owner, task)
    except RunLocked as error:
        raise RunLocked(f"{file}: {error}. If it has ended, delete that file.") from error


def _superseded(path: Path, by: LockOwner) -> Superseded:
    start = f", restart {by.restart}" if by.restart else ""
    return Superseded(
        f"{path}: job {by.job}{start} on {by.host} (process {by.pid}) has taken over this run, because this start no "
        f"longer seemed to run. It ends without writing anything more"
    )


def process_start(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot, or None if it has ended.

    A process id can be used again; together with the start time it is unique.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = text.rsplit(")", 1)[1].split()
    # A zombie has ended; its parent has not called wait yet.
    return None if fields[0] in ("Z", "X") else int(fields[19])
