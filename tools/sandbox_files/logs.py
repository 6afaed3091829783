"""Finds the lines in the daemons' logs that say why a sandbox did not start."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

#: Lines per daemon that are shown.
SHOWN = 4
_PROBLEM = re.compile("error|fatal", re.IGNORECASE)
#: Errors in every start: a new Slurm has no saved state, and PMIx and a mail program may be missing.
_IN_EVERY_START = re.compile(
    r"mpi[/_]pmix|Could not open .*: No such file or directory|Trying backup state save file"
    r"|No \w+ state file|Database settings not recommended|Configured MailProg is invalid"
)


def problems(folder: Path, daemon: str) -> str:
    """The last errors of each daemon, those of `daemon` first. Errors of every start are left out.

    Args:
        folder: folder of the logs.
        daemon: the daemon that failed, such as slurmctld or slurmd.n1; slurmd for all nodes. Its last lines are shown
            if it reports no error.
    """
    logs = {name: list(_lines(folder, name)) for name in sorted({path.stem for path in folder.glob("*")})}
    shown = []
    for name in sorted(logs, key=lambda name: not _is_of(name, daemon)):
        errors = [line for line in logs[name] if _PROBLEM.search(line) and not _IN_EVERY_START.search(line)]
        lines = errors or (logs[name] if _is_of(name, daemon) else [])
        shown += [f"{name}: {line}" for line in lines[-SHOWN:]]
    return "\n".join(shown)


def _is_of(name: str, daemon: str) -> bool:
    return name == daemon or name.startswith(f"{daemon}.")


def _lines(folder: Path, name: str) -> Iterator[str]:
    """The lines of a daemon's log, and those of its output that are not in the log too."""
    log, output = (_text(folder / f"{name}{suffix}") for suffix in (".log", ".out"))
    yield from (line for line in log.splitlines() if line.strip())
    for line in output.splitlines():
        text = line.removeprefix(f"{name.partition('.')[0]}: ")
        if text.strip() and text not in log:
            yield text


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
