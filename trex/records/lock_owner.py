"""`jobs/<key>.lock`: which process works on a stage of a run. Written and read by jobs/worker/lock.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trex.records.base import Count, Record, Time


@dataclass(frozen=True)
class LockOwner(Record):
    """The process that holds a lock."""

    FORMAT: ClassVar[int] = 1

    job: str
    restart: Count
    backend: str  #: the kind of cluster that runs the job, which can be asked about it
    host: str
    pid: Count
    process_start: Count | None  #: in clock ticks since boot; with the pid it names a process for good
    since: Time
    id: str  #: differs for every lock that was ever taken
