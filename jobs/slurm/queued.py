"""Finds the jobs of runs that are in Slurm's queue, and what accounting knows of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from jobs.backend import Answers, QueuedJob, QueueState
from jobs.slurm import KIND, queue
from jobs.slurm.calls import AT_ONCE, PATIENT, Patience
from jobs.slurm.ids import JobId
from trex.errors import TrexError
from trex.records.attempts import Start
from trex.records.run_dir import RunDir
from trex.records.submission import Submission

K = TypeVar("K")
T = TypeVar("T")
Group = Mapping[Path, Sequence[Submission]]  #: submissions by the run's folder

#: How long to wait for an ending job to leave the queue or to be requeued, in seconds.
_MAX_WAIT = 60.0
#: Time between two calls of squeue, in seconds.
_PAUSE = 2.0
#: How long `answers` may take, in seconds.
_SECONDS = 10.0


def by_cluster(submissions: Group) -> dict[str, Group]:
    """Return the submissions to Slurm by the name of the cluster; empty: not known, so the one of this machine."""
    names = {one.cluster for of_run in submissions.values() for one in of_run if one.backend == KIND}
    return {
        name: {
            root: [one for one in of_run if one.backend == KIND and one.cluster == name]
            for root, of_run in submissions.items()
        }
        for name in sorted(names)
    }


def queued_jobs(group: Group, cluster: str, patience: Patience = PATIENT) -> dict[Path, list[QueuedJob]]:
    """Return the jobs of one cluster that are in its queue, oldest first, by the run's folder. Calls squeue once.

    Raises:
        TrexError: if Slurm does not answer.
    """
    entries: dict[str, list[queue.Entry]] = {}
    for entry in queue.entries(cluster, patience):
        entries.setdefault(str(entry.id), []).append(entry)  # in a federation, clusters give ids of their own
    queued: dict[Path, list[QueuedJob]] = {}
    for root, of_run in group.items():
        for one in of_run:
            for key, job in one.jobs.items():
                found = (entry for entry in entries.get(job, ()) if entry.belongs_to(one.comment, one.script))
                queued.setdefault(root, []).extend(QueuedJob(key, job, entry.state, entry.about) for entry in found)
    return queued


def queued_jobs_of(run: RunDir) -> list[QueuedJob]:
    """Return all jobs of a run that are in the queue, oldest first.

    Raises:
        TrexError: if Slurm does not answer; RecordError: if a submission record is damaged.
    """
    groups = by_cluster({run.root: Submission.of(run).strict()})
    return [job for name, group in groups.items() for job in queued_jobs(group, queue.to_ask(name)).get(run.root, ())]


def settled_jobs(run: RunDir) -> dict[str, QueuedJob]:
    """Return the newest queued job of each key, after waiting for ending jobs.

    A job that is ending either leaves the queue in a moment or is requeued. A job that is still ending a minute after
    squeue first showed it so is returned with the state ENDING.
    """
    deadline = None
    while True:
        queued = {job.key: job for job in queued_jobs_of(run)}
        ending = [job.job for job in queued.values() if job.state is QueueState.ENDING]
        if not ending or (deadline is not None and time.monotonic() > deadline):
            return queued
        if deadline is None:
            deadline = time.monotonic() + _MAX_WAIT
            sys.stderr.write(f"trex: job {ending[0]} is ending: waiting, because it may be requeued\n")
        time.sleep(_PAUSE)


def answers(submissions: Group, title: str) -> Answers:
    """Ask each cluster about the queue and its accounting, all at the same time. What they do not say in ten seconds is
    not known.

    Args:
        submissions: of all runs that are asked about.
        title: the name of the queue, for messages.
    """
    groups = by_cluster(submissions)
    deadline = time.monotonic() + _SECONDS

    def rest() -> Patience:
        return Patience(max(deadline - time.monotonic(), 1.0))

    queued: dict[Path, list[QueuedJob]] = {}
    starts: dict[Path, dict[str, Sequence[Start]]] = {}
    silent, unknown = [], []
    with ThreadPoolExecutor(1 + 2 * len(groups)) as pool:
        here = pool.submit(lambda: queue.settings(patience=AT_ONCE).name if any(groups) else "")

        def asked(question: Callable[[Group, str, Patience], T]) -> dict[str, Future[T]]:
            def ask(name: str, group: Group) -> T:
                return question(group, "" if name == here.result() else name, rest())

            return {name: pool.submit(ask, name, group) for name, group in groups.items()}

        in_queues, pasts = asked(queued_jobs), asked(_starts)
    for name, in_queue in in_queues.items():
        words = title if name in ("", here.result()) else f"{title} ({name})"
        for root, jobs in _answer(in_queue, lambda _: silent.append(words)).items():  # noqa: B023
            queued.setdefault(root, []).extend(jobs)
    for past in pasts.values():
        for root, of_run in _answer(past, lambda error: unknown.append(str(error))).items():
            starts.setdefault(root, {}).update(of_run)
    return Answers(queued, starts, tuple(silent), tuple(unknown))


def _answer(asked: Future[dict[K, T]], failed: Callable[[TrexError], object]) -> dict[K, T]:
    try:
        return asked.result()
    except TrexError as error:
        failed(error)
        return {}


def _starts(group: Group, cluster: str, patience: Patience) -> dict[Path, dict[str, Sequence[Start]]]:
    """Return what accounting recorded about the starts of each job, by run and job id. Calls sacct once."""
    submitted = {root: set(_ids(of_run)) for root, of_run in group.items()}
    past = queue.past_starts(set().union(*submitted.values()), cluster, patience)
    # An array that was cancelled before its elements became jobs has a single line in sacct's output.
    return {
        root: {str(job): past.get(job) or past.get(JobId(job.array), []) for job in jobs}
        for root, jobs in submitted.items()
    }


def _ids(submissions: Iterable[Submission]) -> Iterable[JobId]:
    return (JobId.parse(job) for one in submissions for job in one.jobs.values())
