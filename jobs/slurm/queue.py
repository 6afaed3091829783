"""Asks Slurm about its queue and about past jobs, with one call for any number of jobs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from jobs.backend import QueueState
from jobs.slurm.calls import AT_ONCE, PATIENT, Patience, call, is_busy
from jobs.slurm.ids import JobId, elements
from trex.errors import TrexError
from trex.records.attempts import Start

#: What is read of each job, by the names of `squeue --Format`. A control character separates them, because comments and
#: paths may hold any other.
_FIELDS = ("JobArrayID", "State", "Reason", "PreemptTime", "Comment", "Command", "TimeUsed", "TimeLeft", "NodeList")
_SEPARATOR = "\x1f"

_WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
#: The state of a job where it was submitted, if another cluster of the federation has started it.
_ELSEWHERE = "REVOKED"
_STATES = {
    **dict.fromkeys(_WAITING, QueueState.WAITING), "COMPLETING": QueueState.ENDING, "SUSPENDED": QueueState.PAUSED,
    "STOPPED": QueueState.PAUSED,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A job in the queue, or one element of a job array."""

    id: JobId
    state: QueueState
    about: str  #: why it waits, or where it runs
    comment: str
    script: str  #: path of the batch script that was submitted

    def belongs_to(self, comment: str, script: str) -> bool:
        """Return whether it is the job that was submitted with that comment and that script.

        Slurm gives ids again after its counter has come around. Users and sites may change the comment of a job, and a
        site may hide the script; both together do not happen.
        """
        return comment == self.comment or bool(script and script == self.script)


def entries(cluster: str = "", patience: Patience = PATIENT, ended: bool = False) -> list[Entry]:
    """Return this user's jobs in the queue of a cluster, with one entry per array element.

    Args:
        cluster: its name; empty: the one of this machine, with its whole federation if it is in one.
        patience: how long to wait.
        ended: also those that ended in the last minutes.

    Raises:
        TrexError: if Slurm does not answer.
    """
    # By user id, because LOGNAME may still hold the old name after a change of user.
    words = ["squeue", "--noheader", "--array", "--user", str(os.getuid())]
    words += [] if cluster else ["--sibling"]  # with the jobs that other clusters of the federation took over
    words += ["--states=all"] if ended else []
    answer = call([*words, "--Format", ",".join(f"{name}:{_SEPARATOR}" for name in _FIELDS)], cluster, patience)
    if not answer.ok:
        raise TrexError(f"squeue does not answer: {answer.stderr.strip()}")
    rows = (line.split(_SEPARATOR)[:-1] for line in answer.stdout.split("\n"))
    found: dict[str, list[str]] = {}
    for row in rows:
        # Each cluster of a federation that may start a job has a record of it: the one that started it counts.
        if len(row) == len(_FIELDS) and (row[0] not in found or _progress(row[1]) > _progress(found[row[0]][1])):
            found[row[0]] = row
    return [_entry(*row) for row in found.values()]


def _progress(state: str) -> int:
    return 0 if state == _ELSEWHERE else 1 if state in _WAITING else 2


def _entry(
    job: str, name: str, reason: str, preempted: str, comment: str, script: str, elapsed: str, left: str, nodes: str
) -> Entry:
    state = _STATES.get(name, QueueState.RUNNING)
    if state is QueueState.WAITING and reason == "DependencyNeverSatisfied":
        state = QueueState.NEVER
    elif state is QueueState.WAITING and ("held" in reason.lower() or name.endswith("HOLD") or "Hold" in reason):
        state = QueueState.HELD
    elif state is QueueState.RUNNING and preempted[:1].isdigit():
        state = QueueState.EVICTED
    said = {
        QueueState.WAITING: reason,
        QueueState.HELD: f"{reason}: scontrol release {job}",
        QueueState.NEVER: f"a job that it waits for did not succeed: scancel {job}",
        QueueState.RUNNING: f"on {nodes} for {elapsed}, {left} left",
        QueueState.EVICTED: f"on {nodes} for {elapsed}; it saves, and waits again",
        QueueState.PAUSED: f"on {nodes}; Slurm continues it, or: scontrol resume {job}",
        QueueState.ENDING: f"on {nodes}",
    }
    about = "on another cluster of the federation" if name == _ELSEWHERE else said[state]
    return Entry(JobId.parse(job), state, about, comment, script)


def holds_nodes(job: str, cluster: str = "") -> bool:
    """Return whether a job has nodes allocated, i.e. is neither pending nor gone.

    Raises:
        TrexError: if Slurm does not answer.
    """
    place = [] if cluster else ["--local"]  # a federation would answer for the cluster on which it was submitted
    answer = call(["squeue", *place, "--noheader", "--jobs", job, "--format", "%T"], cluster)
    if answer.ok:
        return answer.stdout.strip() not in ("", "PENDING")
    if "Invalid job id" in answer.stderr:
        return False
    raise TrexError(answer.stderr.strip())


def node_address(node: str) -> str | None:
    """Return the address that Slurm uses for a node, or None if scontrol does not say."""
    answer = call(["scontrol", "show", "node", "--oneliner", node], patience=AT_ONCE)
    match = re.search(r"NodeAddr=(\S+)", answer.stdout) if answer.ok else None
    return match[1] if match else None


def cancel(jobs: Iterable[str], cluster: str = "") -> None:
    """Cancel jobs or whole arrays of a cluster. Jobs that have ended in the meantime are ignored.

    Raises:
        TrexError: if Slurm refuses.
    """
    ids = sorted(set(jobs))
    if not ids:
        return
    answer = call(["scancel", *ids], cluster)
    if not answer.ok and "Invalid job id" not in answer.stderr:
        raise TrexError(f"scancel failed: {answer.stderr.strip()}")


def past_starts(jobs: Iterable[JobId], cluster: str = "", patience: Patience = AT_ONCE) -> dict[JobId, list[Start]]:
    """Return what accounting recorded about each start of `jobs` of a cluster, oldest first; empty without accounting.

    Raises:
        TrexError: if there is accounting, and it does not answer.
    """
    arrays = ",".join(sorted({job.array for job in jobs}))
    words = ["sacct", "--duplicates", "--allocations", "--noheader", "--parsable2", f"--jobs={arrays}"]
    words += [f"--clusters={cluster}" if cluster else "--federation"]  # sacct does not read SLURM_CLUSTERS
    whole = {"SLURM_BITSTR_LEN": "0"}  # otherwise sacct shortens long lists of elements
    answer = call([*words, "--format=JobID,State,ElapsedRaw,AllocTRES"], cluster, patience, whole)
    if is_busy(answer):
        raise TrexError(f"sacct does not answer: {answer.stderr.strip()}")
    found: dict[JobId, list[Start]] = {}
    rows = (line.split("|") for line in answer.stdout.splitlines()) if answer.ok else ()
    for text, state, seconds, *resources in (row for row in rows if len(row) >= 3 and row[1].strip()):
        if state == _ELSEWHERE:
            continue
        start = Start(state.split()[0], int(seconds or 0), **_resources("".join(resources)))
        for job in elements(text):
            found.setdefault(job, []).append(start)
    return found


def _resources(text: str) -> dict[str, int]:
    """Return what a start got, from AllocTRES: `cpu=8,energy=20543125,gres/gpu=4,gres/gpu:a100=4,mem=32G,node=1`.

    GPUs are there only if the site counts them, each type on its own or all of them together, and the energy in joules
    only if it measures it. What is not there, is no number, or is the 2^64 - 2 of an energy that failed, is left out.
    """
    found = {}
    for name, _, value in (part.partition("=") for part in text.split(",")):
        number = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)", value)
        if number and (count := round(float(number[1]) * 1000 ** " KMGTP".index(number[2] or " "))) < 2**63:
            found[name] = count
    typed = [count for name, count in found.items() if name.startswith("gres/gpu:")]
    gpus = found.get("gres/gpu", sum(typed) if typed else None)
    named = {"cpus": found.get("cpu"), "gpus": gpus, "joules": found.get("energy")}
    return {name: count for name, count in named.items() if count is not None}


@dataclass(frozen=True)
class Settings:
    """Settings of a cluster."""

    name: str  #: empty if the controller does not answer
    largest_array: int  #: how many elements an array may have; 1 if arrays are disabled


def to_ask(name: str) -> str:
    """Return the cluster to ask about jobs of the cluster `name`: empty if that is the one of this machine."""
    return "" if not name or name == settings().name else name


def settings(cluster: str = "", patience: Patience = PATIENT) -> Settings:
    """Return the settings of a cluster; empty: the one of this machine."""
    answer = call(["scontrol", "show", "config"], cluster, patience)
    name = re.search(r"^ClusterName\s*=\s*(\S+)", answer.stdout, re.MULTILINE)
    limits = re.findall(r"(?:^MaxArraySize\s*=\s*|max_array_tasks=)(\d+)", answer.stdout, re.MULTILINE)
    largest = max(min((int(limit) for limit in limits), default=1001), 1)
    return Settings(name[1] if name else "", largest)
