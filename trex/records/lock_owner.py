"""`jobs/<key>.lock`: the process that works on a stage of a run. Written and read by jobs/worker/lock.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trex.records.base import Count, Record, Time


@dataclass(frozen=True)
class LockOwner(Record):
    """The process that holds a lock."""

    FORMAT: ClassVar[int] = 2

    job: str
    restart: Count
    cluster: str  #: name of the cluster that runs the job, if the back end has several
    backend: str  #: kind of the cluster that runs the job, and that can be asked whether it still runs
    host: str
    pid: Count
    process_start: Count | None  #: in clock ticks since boot; together with the pid it identifies a process
    since: Time
    id: str  #: unique for every lock that was ever taken
