"""What the back end that starts a process tells it of its place, and answers it later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trex.records.lock_owner import LockOwner


@dataclass(frozen=True)
class Task:
    """A process's place in its job."""

    backend: str  #: the kind of cluster that started it
    job_id: str  #: as the back end writes it
    rank: int
    world: int
    local_rank: int  #: among the ranks of its node
    node: str
    node_count: int
    restart: int  #: how often the job had been requeued before this start
    cpus: int  #: CPUs of this process


@dataclass(frozen=True)
class Site:
    """What only the back ends know; jobs/backend.py makes the one that there is."""

    #: Whether the owner of a lock still works, as a process of this task sees it. Raises RunLocked, with the beginning
    #: of a sentence, if nobody can tell.
    owner_lives: Callable[[LockOwner, Task], bool]
    #: Names and addresses by which the other nodes of a job may reach the node of this task, the likeliest first.
    addresses: Callable[[Task], Sequence[str]]
