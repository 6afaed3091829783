"""What Slurm says about its queue and of past jobs: one call each, whatever the number of jobs."""

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

#: Id, state, why it waits, comment, time that it has run and may still run, nodes.
_FIELDS = ("%i", "%T", "%r", "%k", "%M", "%L", "%N")
_STATES = {"PENDING": QueueState.WAITING, "COMPLETING": QueueState.ENDING}


@dataclass(frozen=True)
class Entry:
    """A job, or one element of an array, that Slurm still holds."""

    id: JobId
    state: QueueState
    reason: str  #: why it waits
    comment: str
    elapsed: str
    left: str
    nodes: str


def entries() -> list[Entry]:
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
    return [_entry(*row) for row in rows if len(row) == len(_FIELDS)]


def _entry(job: str, state: str, *rest: str) -> Entry:
    return Entry(JobId.parse(job), _STATES.get(state, QueueState.RUNNING), *rest)


def holds_nodes(job: str) -> bool:
    """Whether a job is started, and not waiting or gone.

    Raises:
        TrexError: if Slurm does not answer.
    """
    answer = programs.run(["squeue", "--noheader", "--jobs", job, "--format", "%T"])
    if answer.ok:
        return answer.stdout.strip() not in ("", "PENDING")
    if "Invalid job id" in answer.stderr:
        return False
    raise TrexError(answer.stderr.strip())


def node_address(node: str) -> str | None:
    """Where Slurm reaches a node; None if it does not say."""
    answer = programs.run(["scontrol", "show", "node", "--oneliner", node], timeout=10)
    match = re.search(r"NodeAddr=(\S+)", answer.stdout) if answer.ok else None
    return match[1] if match else None


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs, or arrays as a whole; one that has ended meanwhile is no error.

    Raises:
        TrexError: if Slurm refuses.
    """
    ids = sorted(set(jobs))
    if not ids:
        return
    answer = programs.run(["scancel", *ids], timeout=60)
    if not answer.ok and "Invalid job id" not in answer.stderr:
        raise TrexError(f"scancel failed: {answer.stderr.strip()}")


def past_starts(jobs: Iterable[JobId]) -> dict[JobId, list[Start]]:
    """What accounting says of each start of `jobs`, oldest first; empty where there is no accounting."""
    arrays = ",".join(sorted({job.array for job in jobs}))
    words = ["sacct", "--duplicates", "--allocations", "--noheader", "--parsable2", f"--jobs={arrays}"]
    whole = {**outside_allocation(), "SLURM_BITSTR_LEN": "0"}  # else long lists of elements end in dots
    answer = programs.run([*words, "--format=JobID,State,ElapsedRaw"], timeout=60, env=whole)
    found: dict[JobId, list[Start]] = {}
    for line in answer.stdout.splitlines() if answer.ok else []:
        text, state, seconds = line.split("|")[:3]
        for job in elements(text):
            found.setdefault(job, []).append(Start(state.split()[0], int(seconds or 0)))
    return found


def largest_array() -> int:
    """How many elements an array may have on this cluster; 1 where there are no arrays."""
    answer = programs.run(["scontrol", "show", "config"], timeout=30)
    limits = re.findall(r"(?:^MaxArraySize\s*=\s*|max_array_tasks=)(\d+)", answer.stdout, re.MULTILINE)
    return max(min((int(limit) for limit in limits), default=1001), 1)
