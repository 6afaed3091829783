"""Which jobs of a run Slurm still holds."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.backend import QueuedJob, QueueState
from jobs.slurm import KIND, queue
from trex.records.run_dir import RunDir
from trex.records.submission import Submission

#: Seconds that an ending job is given to be gone, or to be back from its requeue; and from one question to the next.
_PATIENCE, _PAUSE = 60.0, 2.0


def held_jobs(submissions: Mapping[Path, Sequence[Submission]]) -> dict[Path, list[QueuedJob]]:
    """The submitted jobs that Slurm still holds, by the run's folder and oldest first; asks once, and not at all where
    nothing was submitted to Slurm.

    Raises:
        TrexError: if Slurm does not answer.
    """
    submitted = {root: [one for one in of_run if one.backend == KIND] for root, of_run in submissions.items()}
    if not any(submitted.values()):
        return {}
    entries = {(str(entry.id), entry.comment): entry for entry in queue.entries()}
    held: dict[Path, list[QueuedJob]] = {}
    for root, of_run in submitted.items():
        for key, job, comment in ((key, job, one.comment) for one in of_run for key, job in one.jobs.items()):
            if (entry := entries.get((job, comment))) is not None:
                about = (entry.state, entry.reason, entry.nodes, entry.elapsed, entry.left)
                held.setdefault(root, []).append(QueuedJob(key, job, *about))
    return held


def held_jobs_of(run: RunDir) -> list[QueuedJob]:
    """All jobs of a run that Slurm still holds, oldest first.

    Raises:
        TrexError: if Slurm does not answer; RecordError: if a record of a submission is damaged.
    """
    return held_jobs({run.root: Submission.of(run).strict()}).get(run.root, [])


def settled_jobs(run: RunDir) -> dict[str, QueuedJob]:
    """The jobs of a run that Slurm still holds, by key, once none is ending: such a job may be gone in a moment, or
    waits again after its requeue. One that takes longer than a minute is returned as it is. Of several with one key
    the newest.
    """
    deadline = time.monotonic() + _PATIENCE
    said = False
    while True:
        held = {job.key: job for job in held_jobs_of(run)}
        ending = [job.job for job in held.values() if job.state is QueueState.ENDING]
        if not ending or time.monotonic() > deadline:
            return held
        if not said:
            sys.stderr.write(f"trex: job {ending[0]} is just ending: waiting a moment, for it may be requeued\n")
            said = True
        time.sleep(_PAUSE)
