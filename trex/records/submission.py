"""`jobs/submitted.jsonl`: the jobs that were submitted for a run, one job or job array per line.

The back end writes it when it submits (jobs/slurm/submit.py). Submitting again, `trex retry`, `trex cancel`, `trex
logs` and `trex status` read it to find the run's jobs in the queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trex.records.base import Lines, Record, Time
from trex.records.run_dir import RunDir
from trex.records.stage import Stage


@dataclass(frozen=True)
class Submission(Record):
    """One job, or one job array."""

    FORMAT: ClassVar[int] = 2

    time: Time
    backend: str  #: the kind of cluster, which is also the name of its package in jobs/
    stage: Stage
    jobs: dict[str, str]  #: job id of each key, as the back end writes it
    cluster: str  #: name of the cluster whose queue it is in, if the back end has several; empty: not known
    comment: str  #: distinguishes the job from a later one with the same id, because back ends reuse ids
    script: str  #: path of what was submitted, which distinguishes it too
    code: str  #: name of the code snapshot that it executes
    dependency: str  #: the jobs that it waits for, as the back end writes them

    @classmethod
    def of(cls, run: RunDir) -> Lines[Submission]:
        """All submissions of a run, oldest first."""
        return cls.read_lines(run.submissions)
