"""Calls Slurm's programs: on which cluster, with which environment, how long to wait, and when to try again."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs import programs
from jobs.programs import Completed
from jobs.slurm.variables import outside_allocation
from trex.errors import UserError

#: What Slurm's programs say when the controller or the database is busy, restarts, or limits the rate of requests.
_BUSY = (
    "Socket timed out", "Unable to contact", "Connection refused", "Connection timed out",
    "Connection reset", "Resource temporarily unavailable", "Zero Bytes were transmitted", "Transport endpoint",
    "Unable to connect to database", "Slurmctld is in standby", "Unspecified error", "rate limit",
)  # fmt: skip
_TIMED_OUT = 124  #: `jobs.programs.run`


@dataclass(frozen=True)
class Patience:
    """How long to wait for an answer."""

    seconds: float  #: for each try
    pauses: tuple[float, ...] = ()  #: seconds before each further try


AT_ONCE = Patience(8.0)  #: for a command that only shows something, and that says what is not known
PATIENT = Patience(30.0, (1.0, 3.0, 9.0, 27.0))  #: for a command that must know


def call(
    words: Sequence[str], cluster: str = "", patience: Patience = PATIENT, more: Mapping[str, str] | None = None
) -> Completed:
    """Call a program of Slurm. It is called again while the controller is busy, so it must be safe to call it twice.

    Args:
        words: the program and its arguments.
        cluster: name of the Slurm cluster to ask; empty: the one that this machine belongs to.
        patience: how long to wait for an answer.
        more: environment variables to set.
    """
    answer = once(words, cluster, patience.seconds, more)
    for pause in patience.pauses:
        if not is_busy(answer):
            break
        sys.stderr.write(f"trex: {words[0]} gets no answer from Slurm; trying again in {pause:g} s\n")
        time.sleep(pause)
        answer = once(words, cluster, patience.seconds, more)
    return answer


def once(
    words: Sequence[str], cluster: str, seconds: float, more: Mapping[str, str] | None = None, stdin: str | None = None
) -> Completed:
    """Call a program of Slurm once, without the variables that would change what it does.

    Raises:
        UserError: if Slurm does not know the cluster.
    """
    variables = {**outside_allocation(), **(more or {})}
    variables.pop("SLURM_CLUSTERS", None)
    if cluster:
        variables["SLURM_CLUSTERS"] = cluster
    answer = programs.run(words, timeout=seconds, env=variables, stdin=stdin)
    if cluster and not answer.ok and f"No cluster '{cluster}'" in answer.stderr:
        raise UserError(
            f"Slurm knows no cluster {cluster!r}: expected one that `sacctmgr show cluster` lists: change clusters in "
            f"the cluster file, or SLURM_CLUSTERS"
        )
    return answer


def is_busy(answer: Completed) -> bool:
    """Return whether a program failed because the controller or the database does not answer now."""
    words = answer.stderr.lower()
    return not answer.ok and (answer.code == _TIMED_OUT or any(one.lower() in words for one in _BUSY))
