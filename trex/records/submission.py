"""`jobs/submitted.jsonl`: the jobs that were submitted for a run, one job or array of jobs per line.

The back end that submits writes it (jobs/slurm/submit.py); submitting again, `trex retry`, `trex cancel`, `trex logs`
and `trex status` read it to find the run's jobs in the queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trex.records.base import Lines, Record, Time
from trex.records.run_dir import RunDir
from trex.records.stage import Stage


@dataclass(frozen=True)
class Submission(Record):
    """One job, or one array of jobs."""

    FORMAT: ClassVar[int] = 1

    time: Time
    backend: str  #: the kind of cluster: the folder of its package in jobs/
    stage: Stage
    jobs: dict[str, str]  #: job id of each key, as the back end writes it
    comment: str  #: tells the job from another of the same id: back ends use ids again
    code: str  #: name of the snapshot that it executes
    dependency: str  #: what it waits for, in the back end's words

    @classmethod
    def of(cls, run: RunDir) -> Lines[Submission]:
        """All submissions of a run, oldest first."""
        return cls.read_lines(run.submissions)
