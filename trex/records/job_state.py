"""`jobs/<key>.state.json`: the state of one job of a run, and how it ended.

This file is the only record of how a job ended. Rank 0 of the job writes it (jobs/worker/attempts.py); another rank
writes it only if it fails. `trex status`, the launcher on this machine and the next start of the job read it.

`jobs/<key>.state.txt` holds the same information for the batch script (jobs/slurm/requeue.sh), which reads its two
lines with the shell's `read`:

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
    """State of a job."""

    RUNNING = "running"  #: also if its processes were killed, or ended because the machine failed (LOST)
    DONE = "done"
    WANTS_REQUEUE = "wants_requeue"  #: saved after a stop signal, and wants to continue
    FAILED = "failed"


@dataclass(frozen=True)
class JobState(Record):
    """State of the newest start of a job."""

    FORMAT: ClassVar[int] = 1

    state: State
    code: int | None  #: exit code (trex/errors.py); None while it runs, and if it was killed
    reason: str  #: why it ended, for the user
    signal: str | None  #: the stop signal that it received, such as SIGTERM
    job: str
    restart: Count  #: how often Slurm had requeued the job before this start
    #: Short description of the stage's progress on disk: at the beginning of this start, and after its end, at the end.
    mark: str
    starts_without_progress: Count  #: consecutive starts, including this one, that did not change the mark
    time: Time

    def __post_init__(self) -> None:
        if self.code is not None and self.code not in list(ExitCode):
            raise ValueError(
                f"code: found {self.code}, expected one of {', '.join(str(int(code)) for code in ExitCode)}"
            )

    def save(self, run: RunDir, key: str) -> None:
        """Write both files; the one for the batch script also if the other one cannot be written.

        Raises:
            OSError: if one of them cannot be written.
        """
        try:
            self.write(run.state(key))
        finally:
            lines = f"{self.job} {self.restart}\n{self.state} {self.starts_without_progress}\n"
            write_text(run.state_for_shell(key), lines)

    @classmethod
    def of(cls, run: RunDir, key: str) -> JobState | None:
        """The state of a job, or None if it never started. Raises RecordError if the file is damaged."""
        try:
            return cls.read(run.state(key))
        except FileNotFoundError:
            return None

    @classmethod
    def of_or_none(cls, run: RunDir, key: str) -> JobState | None:
        """The state of a job, or None if it never started or the file is damaged. For code that overwrites the file."""
        try:
            return cls.of(run, key)
        except RecordError:
            return None
