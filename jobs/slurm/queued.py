"""Finds the jobs of a run that are in Slurm's queue."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.backend import QueuedJob, QueueState
from jobs.slurm import KIND, queue
from trex.records.run_dir import RunDir
from trex.records.submission import Submission

#: How long to wait for an ending job to leave the queue or to be requeued, in seconds.
_MAX_WAIT = 60.0
#: Time between two calls of squeue, in seconds.
_PAUSE = 2.0


def queued_jobs(submissions: Mapping[Path, Sequence[Submission]]) -> dict[Path, list[QueuedJob]]:
    """Return the submitted jobs that are in the queue, oldest first, by the run's folder.

    Calls squeue once, or not at all if nothing was submitted to Slurm.

    Raises:
        TrexError: if Slurm does not answer.
    """
    submitted = {root: [one for one in of_run if one.backend == KIND] for root, of_run in submissions.items()}
    if not any(submitted.values()):
        return {}
    entries = {(str(entry.id), entry.comment): entry for entry in queue.entries()}
    queued: dict[Path, list[QueuedJob]] = {}
    for root, of_run in submitted.items():
        for key, job, comment in ((key, job, one.comment) for one in of_run for key, job in one.jobs.items()):
            if (entry := entries.get((job, comment))) is not None:
                about = (entry.state, entry.reason, entry.nodes, entry.elapsed, entry.left)
                queued.setdefault(root, []).append(QueuedJob(key, job, *about))
    return queued


def queued_jobs_of(run: RunDir) -> list[QueuedJob]:
    """Return all jobs of a run that are in the queue, oldest first.

    Raises:
        TrexError: if Slurm does not answer; RecordError: if a submission record is damaged.
    """
    return queued_jobs({run.root: Submission.of(run).strict()}).get(run.root, [])


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
