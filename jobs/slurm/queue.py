"""What Slurm says about the queue: one call each, whatever the number of jobs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from jobs import programs
from trex.errors import TrexError

_FIELDS = ("%i", "%T", "%r", "%k", "%j", "%M", "%L", "%N")


@dataclass(frozen=True)
class QueuedJob:
    """A job, or one element of an array, that Slurm still holds."""

    job_id: str  #: `123`, or `123_4` for an array's element
    state: str  #: PENDING, RUNNING, …
    reason: str  #: why it waits
    comment: str
    name: str
    elapsed: str
    left: str
    nodes: str


def queued_jobs() -> list[QueuedJob]:
    """This user's jobs in the queue, array elements apart.

    Raises:
        TrexError: if Slurm does not answer.
    """
    # By number: LOGNAME may still hold another user's name after a change of user.
    words = ["squeue", "--noheader", "--array", "--user", str(os.getuid()), "--format", "|".join(_FIELDS)]
    answer = programs.run(words, timeout=60)
    if not answer.ok:
        raise TrexError(f"squeue does not answer: {answer.stderr.strip()}")
    rows = (line.split("|") for line in answer.stdout.splitlines())
    return [QueuedJob(*row) for row in rows if len(row) == len(_FIELDS)]


def cancel(job_ids: Iterable[str]) -> None:
    """Cancel jobs; one that has ended meanwhile is no error.

    Raises:
        TrexError: if Slurm refuses.
    """
    ids = sorted(set(job_ids))
    if not ids:
        return
    answer = programs.run(["scancel", *ids], timeout=60)
    if not answer.ok and "Invalid job id" not in answer.stderr:
        raise TrexError(f"scancel failed: {answer.stderr.strip()}")


def elements(job_id: str) -> list[str]:
    """The jobs that an id of Slurm's stands for: `12_[0-2,7%4]`, an array that waits, is 12_0, 12_1, 12_2 and 12_7."""
    found = re.fullmatch(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]", job_id)
    if found is None:
        return [job_id]
    ids = []
    for part in found[2].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        ids += [f"{found[1]}_{number}" for number in range(int(first), int(last or first) + 1, int(step or 1))]
    return ids


def largest_array() -> int:
    """How many elements an array may have on this cluster; 1 where there are no arrays."""
    answer = programs.run(["scontrol", "show", "config"], timeout=30)
    limits = re.findall(r"(?:^MaxArraySize\s*=\s*|max_array_tasks=)(\d+)", answer.stdout, re.MULTILINE)
    return max(min((int(limit) for limit in limits), default=1001), 1)
