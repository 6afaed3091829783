"""`jobs/submitted.jsonl`: the jobs that were submitted for a run, one call of sbatch per line.

Whoever submits writes it (jobs/slurm/submit.py); submitting again, `trex retry`, `trex cancel`, `trex logs` and `trex
status` read it to find the run's jobs in the queue.
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
    stage: Stage
    jobs: dict[str, str]  #: job id of each key: `123`, or `123_4` for an element of an array
    comment: str  #: tells the job from another of the same id, which Slurm may use again
    code: str  #: name of the snapshot that it executes
    dependency: str  #: what it waits for, in the words of sbatch

    @classmethod
    def of(cls, run: RunDir) -> Lines[Submission]:
        """All submissions of a run, oldest first."""
        return cls.read_lines(run.submissions)
