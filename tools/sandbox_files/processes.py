"""Finds and ends processes by the environment and the folder that they were started with."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process, as /proc describes it."""

    pid: int
    parent: int
    name: str
    cwd: Path
    environment: frozenset[str]

    def has(self, variable: str, value: str | None = None) -> bool:
        """Whether it was started with this environment variable, and with this value if one is given."""
        if value is None:
            return any(word.startswith(f"{variable}=") for word in self.environment)
        return f"{variable}={value}" in self.environment


def own_processes() -> dict[int, Process]:
    """This user's running processes, by process id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, rest = (path / "stat").read_text(errors="replace").split("(", 1)[1].rsplit(")", 1)
            state, parent = rest.split()[:2]
            if state != "Z" and path.stat().st_uid == os.getuid():
                words = (path / "environ").read_bytes().decode(errors="replace").split("\0")
                cwd = (path / "cwd").readlink()
                found[int(path.name)] = Process(int(path.name), int(parent), name, cwd, frozenset(words))
    return found


def kill_all(wanted: Callable[[Process], bool]) -> bool:
    """Kill all processes for which `wanted` is true, and their descendants, until none is left.

    This program and its ancestors are not killed.

    Returns:
        Whether there was any such process.

    Raises:
        TimeoutError: if some processes do not end.
    """
    found = False
    for _ in range(200):
        victims = _victims(wanted)
        if not victims:
            return found
        found = True
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    raise TimeoutError(f"these processes do not end: {sorted(victims)}")


def _victims(wanted: Callable[[Process], bool]) -> list[int]:
    processes = own_processes()
    victims = {pid for pid, process in processes.items() if wanted(process)}
    grown = -1
    while grown != len(victims):
        grown = len(victims)
        victims |= {pid for pid, process in processes.items() if process.parent in victims}
    pid = os.getpid()
    while pid in processes:
        victims.discard(pid)
        pid = processes[pid].parent
    # Slurm's daemons first: otherwise they report how a job's processes ended, which a node without power does not.
    return sorted(victims, key=lambda pid: processes[pid].name not in ("slurmd", "slurmstepd"))
