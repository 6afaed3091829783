"""One living job a stage of a run: the lock names its owner, and is taken over only when the owner is surely gone."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs import programs
from jobs.environment import Task
from trex.errors import RunLocked


@contextlib.contextmanager
def locked(path: Path, task: Task) -> Iterator[None]:
    """Hold the lock file `path` for the length of the block.

    Raises:
        RunLocked: if another living job holds it, or if it cannot be told whether its owner lives.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = {
        "job": task.job_id, "restart": task.restart, "slurm": task.is_slurm, "host": socket.gethostname(),
        "pid": os.getpid(), "process_start": _process_start(os.getpid()), "since": round(time.time(), 3),
        "id": uuid.uuid4().hex,
    }  # fmt: skip
    while not _create(path, mine):
        owner = _read(path)
        if owner is None:
            continue  # released in between
        if _is_alive(owner, task, path):
            raise RunLocked(
                f"{path}: job {owner.get('job')} on {owner.get('host')} (process {owner.get('pid')}) is working on it. "
                f"Wait for it, or cancel it first."
            )
        _remove_stale(path, owner)
    try:
        yield
    finally:
        if (_read(path) or {}).get("id") == mine["id"]:
            path.unlink(missing_ok=True)


def _create(path: Path, mine: dict[str, Any]) -> bool:
    """Create the lock with its content in one step: a link to a finished file either exists or does not."""
    temporary = path.with_name(f".{path.name}.{mine['id']}")
    temporary.write_text(json.dumps(mine), encoding="utf-8")
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    finally:
        temporary.unlink()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        owner = None
    if not isinstance(owner, dict):
        raise RunLocked(f"{path}: not readable as a lock. If no job works on this run, delete that file.")
    return owner


def _is_alive(owner: dict[str, Any], task: Task, path: Path) -> bool:
    if owner.get("slurm"):
        if owner.get("job") == task.job_id:
            return bool(owner.get("restart", 0) >= task.restart)  # an earlier life of this very job is over
        answer = programs.run(["squeue", "--noheader", "--jobs", str(owner.get("job")), "--format", "%T"])
        if answer.ok:
            return answer.stdout.strip() not in ("", "PENDING")
        if "Invalid job id" in answer.stderr:
            return False
        raise RunLocked(
            f"{path}: held by Slurm job {owner.get('job')}, and squeue does not say whether it lives "
            f"({answer.stderr.strip()}). If it does not, delete that file."
        )
    if owner.get("host") != socket.gethostname():
        raise RunLocked(
            f"{path}: held by process {owner.get('pid')} on {owner.get('host')}, which cannot be asked from here. "
            f"If nothing runs there any more, delete that file."
        )
    for _ in range(20):  # a process that was just killed takes a moment to go
        if _process_start(int(owner.get("pid", -1))) != owner.get("process_start") or not owner.get("process_start"):
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


def _remove_stale(path: Path, owner: dict[str, Any]) -> None:
    """Remove a dead owner's lock; of several that find it dead, one does.

    The right to remove it is a link to it, named for its owner: only one process can make that. Without it a slower
    process would remove the lock of a quicker one that took over in between.
    """
    right = path.with_name(f".{path.name}.stale-{owner.get('id')}")
    try:
        os.link(path, right)
    except FileNotFoundError:
        return
    except FileExistsError:
        _wait_for_removal(path, owner, right)
        return
    try:
        if (_read(right) or {}).get("id") == owner.get("id"):
            path.unlink(missing_ok=True)
    finally:
        right.unlink()


def _wait_for_removal(path: Path, owner: dict[str, Any], right: Path) -> None:
    """Wait until the process that has the right to remove a lock did so.

    Raises:
        RunLocked: if it did not: it was killed between two lines, and nobody can tell that from being slow.
    """
    for _ in range(100):
        if (_read(path) or {}).get("id") != owner.get("id"):
            return
        time.sleep(0.05)
    raise RunLocked(f"{path}: being taken over by a process that does not end. If none lives, delete it and {right}.")
