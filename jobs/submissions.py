"""The jobs that were submitted for runs, in any back end, and their state in the queue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jobs.backend import Answers, Backend, QueuedJob, backend, kinds
from trex.records.run_dir import RunDir
from trex.records.submission import Submission


def backends_of(submissions: Iterable[Submission]) -> list[Backend]:
    """Return the back ends that these were submitted to."""
    used = {one.backend for one in submissions}
    return [backend(kind) for kind in kinds() if kind in used]


def queued_jobs(run: RunDir) -> list[QueuedJob]:
    """Return the jobs of a run that are in a queue, oldest first.

    Raises:
        TrexError: if a queue does not answer; RecordError: if a submission record is damaged.
    """
    return [job for one in backends_of(Submission.of(run).strict()) for job in one.queued(run)]


def ask(runs: Sequence[RunDir]) -> Answers:
    """Ask all queues and their accounting about the jobs of `runs`. Damaged submission records are skipped."""
    submissions = [one for run in runs for one in Submission.of(run).records]
    answers = [one.ask(runs) for one in backends_of(submissions)]
    queued = {run.root: [job for answer in answers for job in answer.queued.get(run.root, ())] for run in runs}
    starts = {
        run.root: {job: starts for answer in answers for job, starts in answer.starts.get(run.root, {}).items()}
        for run in runs
    }
    silent = tuple(title for answer in answers for title in answer.silent)
    return Answers(queued, starts, silent, tuple(what for answer in answers for what in answer.unknown))
