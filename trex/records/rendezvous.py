"""`jobs/rendezvous/<key>-<job>-<restart>.json`: the address where the ranks of one start of a job connect.

Rank 0 writes it and the other ranks read it (jobs/worker/rendezvous.py). A rank that ends with an error writes
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
    token: str  #: the secret of this start, by which rank 0 and the others recognize each other
    node: str


@dataclass(frozen=True)
class Canceled(Record):
    """A rank ended with an error."""

    FORMAT: ClassVar[int] = 1

    reason: str
