"""Asks Slurm about its queue and about past jobs, with one call for any number of jobs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from jobs import programs
from jobs.backend import QueueState, Start
from jobs.slurm.ids import JobId, elements
from jobs.slurm.variables import outside_allocation
from trex.errors import TrexError

#: Job id, state, reason for waiting, comment, time used, time left, nodes.
_FIELDS = ("%i", "%T", "%r", "%k", "%M", "%L", "%N")
_STATES = {"PENDING": QueueState.WAITING, "COMPLETING": QueueState.ENDING}


@dataclass(frozen=True)
class Entry:
    """A job in the queue, or one element of a job array."""

    id: JobId
    state: QueueState
    reason: str  #: why the job waits
    comment: str
    elapsed: str
    left: str
    nodes: str


def entries() -> list[Entry]:
    """Return this user's jobs in the queue, with one entry per array element.

    Raises:
        TrexError: if Slurm does not answer.
    """
    # By user id, because LOGNAME may still hold the old name after a change of user.
    words = ["squeue", "--noheader", "--array", "--user", str(os.getuid()), "--format", "|".join(_FIELDS)]
    answer = programs.run(words, timeout=60, env=outside_allocation())
    if not answer.ok:
        raise TrexError(f"squeue does not answer: {answer.stderr.strip()}")
    rows = (line.split("|") for line in answer.stdout.splitlines())
    return [_entry(*row) for row in rows if len(row) == len(_FIELDS)]


def _entry(job: str, state: str, *rest: str) -> Entry:
    return Entry(JobId.parse(job), _STATES.get(state, QueueState.RUNNING), *rest)


def holds_nodes(job: str) -> bool:
    """Return whether a job has nodes allocated, i.e. is neither pending nor gone.

    Raises:
        TrexError: if Slurm does not answer.
    """
    words = ["squeue", "--noheader", "--jobs", job, "--format", "%T"]
    answer = programs.run(words, env=outside_allocation())
    if answer.ok:
        return answer.stdout.strip() not in ("", "PENDING")
    if "Invalid job id" in answer.stderr:
        return False
    raise TrexError(answer.stderr.strip())


def node_address(node: str) -> str | None:
    """Return the address that Slurm uses for a node, or None if scontrol does not say."""
    answer = programs.run(["scontrol", "show", "node", "--oneliner", node], timeout=10)
    match = re.search(r"NodeAddr=(\S+)", answer.stdout) if answer.ok else None
    return match[1] if match else None


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs or whole arrays. Jobs that have ended in the meantime are ignored.

    Raises:
        TrexError: if Slurm refuses.
    """
    ids = sorted(set(jobs))
    if not ids:
        return
    answer = programs.run(["scancel", *ids], timeout=60, env=outside_allocation())
    if not answer.ok and "Invalid job id" not in answer.stderr:
        raise TrexError(f"scancel failed: {answer.stderr.strip()}")


def past_starts(jobs: Iterable[JobId]) -> dict[JobId, list[Start]]:
    """Return what accounting recorded about each start of `jobs`, oldest first; empty without accounting."""
    arrays = ",".join(sorted({job.array for job in jobs}))
    words = ["sacct", "--duplicates", "--allocations", "--noheader", "--parsable2", f"--jobs={arrays}"]
    whole = {**outside_allocation(), "SLURM_BITSTR_LEN": "0"}  # otherwise sacct shortens long lists of elements
    answer = programs.run([*words, "--format=JobID,State,ElapsedRaw"], timeout=60, env=whole)
    found: dict[JobId, list[Start]] = {}
    rows = (line.split("|") for line in answer.stdout.splitlines()) if answer.ok else ()
    for text, state, seconds in (row for row in rows if len(row) == 3 and row[1].strip()):
        for job in elements(text):
            found.setdefault(job, []).append(Start(state.split()[0], int(seconds or 0)))
    return found


def largest_array() -> int:
    """Return how many elements an array may have on this cluster; 1 if arrays are disabled."""
    answer = programs.run(["scontrol", "show", "config"], timeout=30)
    limits = re.findall(r"(?:^MaxArraySize\s*=\s*|max_array_tasks=)(\d+)", answer.stdout, re.MULTILINE)
    return max(min((int(limit) for limit in limits), default=1001), 1)
