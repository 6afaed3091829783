"""What a process gets from the back end that starts it: its place in the job, and what it can ask later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trex.records.attempts import Start
from trex.records.lock_owner import LockOwner
from trex.records.run_dir import RunDir


@dataclass(frozen=True)
class Task:
    """The place of a process in its job."""

    backend: str  #: the kind of the back end that started it
    job_id: str  #: as the back end writes it
    rank: int
    world: int
    local_rank: int  #: among the ranks of its node
    node: str
    node_count: int
    restart: int  #: how many times the job was requeued before this start
    cpus: int  #: CPUs of this process
    cluster: str = ""  #: name of the cluster that it runs on, if the back end has several


@dataclass(frozen=True)
class Site:
    """Questions that only a back end can answer. The only instance is in jobs/backend.py."""

    #: Returns whether the owner of a lock still runs, asked by a process of this task. Raises RunLocked, with the
    #: beginning of a sentence as its message, if this cannot be found out.
    owner_is_alive: Callable[[LockOwner, Task], bool]
    #: Returns names and addresses by which other nodes may reach the node of this task, the most likely first.
    addresses: Callable[[Task], Sequence[str]]
    #: Returns whether jobs that this task starts wait in a queue, so that the task need not wait for them.
    has_queue: Callable[[Task], bool]
    #: Returns what accounting recorded about the starts of each job of a run, oldest first, if there is accounting.
    starts: Callable[[RunDir], Mapping[str, Sequence[Start]]] = lambda _: {}
