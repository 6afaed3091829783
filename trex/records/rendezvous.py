"""`jobs/rendezvous/<key>-<job>-<restart>.json`: the address where the ranks of one start of a job connect.

Rank 0 writes it and the other ranks read it (jobs/worker/rendezvous.py). If rank 0 ends with an error, it also writes
`….canceled.json`. Then the other ranks stop waiting for it, and the batch script (jobs/slurm/requeue.sh) knows that
rank 0 was not killed, even if rank 0 could not record a state because another job holds the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from trex.records.base import Record
from trex.records.typed import Bounds


@dataclass(frozen=True)
class Rendezvous(Record):
    """The address at which rank 0 listens."""

    FORMAT: ClassVar[int] = 1

    addresses: tuple[str, ...]  #: IPv4 addresses, the most likely one first
    port: Annotated[int, Bounds(1, 65535)]
    token: str  #: distinguishes this job's store from another job's store at the same port
    node: str


@dataclass(frozen=True)
class Canceled(Record):
    """Rank 0 ended with an error."""

    FORMAT: ClassVar[int] = 1

    reason: str
