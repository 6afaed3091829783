"""`jobs/rendezvous/<key>-<job>-<restart>.json`: where the ranks of one start of a job meet, written by its rank 0 and
read by the other ranks (jobs/worker/rendezvous.py).

Beside it `….canceled.json`, if rank 0 ended with an error: the other ranks do not wait for it, and the batch script
(jobs/slurm/requeue.sh) knows by that file that rank 0 ended by itself, also where it could not record a state because
another job holds the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from trex.records.base import Record
from trex.records.typed import Bounds


@dataclass(frozen=True)
class Rendezvous(Record):
    """Where rank 0 listens."""

    FORMAT: ClassVar[int] = 1

    addresses: tuple[str, ...]  #: IPv4, the likeliest first
    port: Annotated[int, Bounds(1, 65535)]
    token: str  #: tells this job's store from another's that got the same port
    node: str


@dataclass(frozen=True)
class Canceled(Record):
    """Rank 0 ended."""

    FORMAT: ClassVar[int] = 1

    reason: str
