"""Finds the lines in the daemons' logs that say why a sandbox did not start."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

#: Lines per daemon that are shown.
SHOWN = 4
_PROBLEM = re.compile("error|fatal", re.IGNORECASE)
#: Errors in every start: a new Slurm has no saved state, and PMIx and a mail program may be missing.
_IN_EVERY_START = re.compile(
    r"mpi[/_]pmix|Could not open .*: No such file or directory|Trying backup state save file"
    r"|No \w+ state file|Database settings not recommended|Configured MailProg is invalid"
)


def problems(folder: Path, daemons: Collection[str]) -> str:
    """The last errors of each daemon, those of `daemons` first. Errors of every start are left out.

    Args:
        folder: folder of the logs.
        daemons: those that failed, such as slurmctld or slurmd.n1. The last lines of one without errors are shown.
    """
    shown = []
    for name in sorted({path.stem for path in folder.glob("*")}, key=lambda name: (name not in daemons, name)):
        lines = [line for line in _lines(folder, name) if not _IN_EVERY_START.search(line)]
        errors = [line for line in lines if _PROBLEM.search(line)]
        shown += [f"{name}: {line}" for line in (errors or (lines if name in daemons else []))[-SHOWN:]]
    return "\n".join(shown)


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
