"""`jobs/<key>.state.json`: where one job of a run stands, and how it ended.

The only place that says how a job ended. Rank 0 of the job writes it (jobs/worker/attempts.py; another rank only to say
that it failed); `trex status`, the launcher on this machine and the next start of the job read it.

`jobs/<key>.state.txt` holds the same for the batch script (jobs/slurm/requeue.sh), which reads it with two `read`:

    123_4 2             job, restart
    wants_requeue 1     state, starts without progress
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from trex.errors import ExitCode
from trex.files import write_text
from trex.records.base import Count, Record, RecordError, Time
from trex.records.run_dir import RunDir


class State(StrEnum):
    """Where a job stands."""

    RUNNING = "running"  #: also after its processes were killed
    DONE = "done"
    WANTS_REQUEUE = "wants_requeue"  #: saved after a stop signal
    FAILED = "failed"


@dataclass(frozen=True)
class JobState(Record):
    """What the newest start of a job left."""

    FORMAT: ClassVar[int] = 1

    state: State
    code: int | None  #: exit code (trex/errors.py); None while it runs
    reason: str  #: why it ended, for a person
    signal: str | None  #: the stop signal that came, such as SIGTERM
    job: str
    restart: Count  #: how often Slurm had requeued the job before this start
    mark: str  #: what the stage had on disk, in short: at the beginning of this start, and once it has ended at its end
    starts_without_progress: Count  #: starts of this job in a row, this one included, that found and left this mark
    time: Time

    def __post_init__(self) -> None:
        if self.code is not None and self.code not in list(ExitCode):
            raise ValueError(
                f"code: found {self.code}, expected one of {', '.join(str(int(code)) for code in ExitCode)}"
            )

    def save(self, run: RunDir, key: str) -> None:
        """Write both files."""
        self.write(run.state(key))
        lines = f"{self.job} {self.restart}\n{self.state} {self.starts_without_progress}\n"
        write_text(run.state_for_shell(key), lines)

    @classmethod
    def of(cls, run: RunDir, key: str) -> JobState | None:
        """The state of a job, None if it never started. Raises RecordError if its file is damaged."""
        try:
            return cls.read(run.state(key))
        except FileNotFoundError:
            return None

    @classmethod
    def of_or_none(cls, run: RunDir, key: str) -> JobState | None:
        """The state of a job for those that overwrite it: None also if its file is damaged."""
        try:
            return cls.of(run, key)
        except RecordError:
            return None
