"""Lets the ranks of a job find each other: rank 0 listens on a free port and writes its address into the run folder.

No port is computed or configured, so jobs on the same node cannot collide, and no host name needs to resolve. The name
of the file contains the job's id and restart count, so a requeued job never reads the file of an earlier start. The
file has a secret: who does not know it can neither read anything nor end the start (jobs/worker/meeting.py).
"""

from __future__ import annotations

import contextlib
import resource
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

from jobs import environment
from jobs.worker.meeting import Closed, Line, Meeting, connect
from jobs.worker.place import Site, Task
from trex.errors import Interrupted, MachineLost, TrexError
from trex.interruption import StopRequest
from trex.records.rendezvous import Canceled, Rendezvous
from trex.records.run_dir import RunDir

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store, TCPStore

_POLL_SECONDS = 0.1
_SECONDS_TO_TELL = 10.0
#: Connections of a process to each rank: of two process groups, the store and the rendezvous.
_CONNECTIONS_PER_RANK = 4
_STOPPED = "stopped before all ranks were connected; no work was started, the same command starts it"


@dataclass(frozen=True)
class Waiting:
    """What ends the wait for the other ranks."""

    run: RunDir
    key: str
    task: Task
    stop: StopRequest
    seconds: float
    since: float

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.since + self.seconds

    def require_no_end(self) -> None:
        """Raise TrexError if a process of this start has ended. If this one was asked to stop, raise Interrupted.

        That waits a little for rank 0, so that it can be told: the signal may have reached this process alone.
        """
        canceled = self.run.canceled(self.key, self.task.job_id, self.task.restart)
        if canceled.exists() or time.time() - (self.stop.received_at or 0.0) > _SECONDS_TO_TELL:
            self.stop.check()
        if canceled.exists():
            raise TrexError(f"a process ended before the ranks were connected: {Canceled.read(canceled).reason}")


def meet(run: RunDir, key: str, task: Task, site: Site, stop: StopRequest, seconds: float) -> Store | None:
    """Return a key-value store that all ranks of this start share; None for a single process.

    The store listens at one address only: the loopback, or the one at which the other nodes reached rank 0.

    Args:
        run: the run folder.
        key: the key of the job.
        task: the place of this process in the job.
        site: the back end's answers.
        stop: true once a signal has asked to stop.
        seconds: how long to wait for the other ranks. On a slow file system, they may start minutes apart.

    Raises:
        Interrupted: if any rank is asked to stop while they wait.
        MachineLost: if a rank does not arrive in time, or ends before all have arrived.
        TrexError: if a rank failed before all have arrived.
    """
    if task.world == 1:
        return None
    _allow_connections(task.world)
    waiting = Waiting(run, key, task, stop, seconds, time.monotonic())
    store, reached = _open(waiting, site) if task.rank == 0 else _join(waiting)
    if reached:
        _choose_interface(reached, task)
    return store


def _allow_connections(world: int) -> None:
    """Raise the soft limit of open files, often 1024: each rank connects to all others, and all of them to rank 0."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = soft + _CONNECTIONS_PER_RANK * world
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def cancel(run: RunDir, key: str, task: Task, reason: str) -> None:
    """Tell the other ranks that this one has ended, so that they do not wait for it."""
    path = run.canceled(key, task.job_id, task.restart)
    if task.world > 1 and not path.exists():
        Canceled(reason if task.rank == 0 else f"rank {task.rank} on {task.node}: {reason}").write(path)


def _open(waiting: Waiting, site: Site) -> tuple[Store, str]:
    """Wait for all ranks, then open the store. Also returns the address at which other nodes reached this one."""
    task = waiting.task
    names = [*site.addresses(task), socket.gethostname(), socket.getfqdn()] if task.node_count > 1 else []
    secret = secrets.token_hex(32)
    meeting = Meeting(_addresses_of(names) if names else ["127.0.0.1"], secret)
    try:
        path = waiting.run.rendezvous(waiting.key, task.job_id, task.restart)
        Rendezvous(tuple(meeting.addresses), meeting.port, secret, task.node).write(path)
        _wait_for_all(meeting, waiting)
        store = _store(meeting.reached or meeting.addresses[0], 0, waiting.seconds)
        meeting.tell({"go": [store.host, store.port], "reached": meeting.reached})
        with contextlib.suppress(OSError):
            path.unlink()  # nobody needs it any more
        return store, meeting.reached
    finally:
        meeting.close()


def _store(address: str, port: int, seconds: float) -> TCPStore:
    """Connect to the store at that address, or open it there if `port` is 0."""
    from torch._C._distributed_c10d import TCPStore

    timeout = timedelta(seconds=seconds)
    if port:
        return TCPStore(address, port, is_master=False, timeout=timeout)
    listening = socket.create_server((address, 0), backlog=1024)  # by itself, TCPStore listens at all addresses
    return TCPStore(
        address, listening.getsockname()[1], is_master=True, wait_for_workers=False, timeout=timeout,
        master_listen_fd=listening.detach(),
    )  # fmt: skip


def _wait_for_all(meeting: Meeting, waiting: Waiting) -> None:
    """Wait until every rank has connected. Rank 0 decides for all: the others wait for what it says.

    A signal during start-up may reach one rank before it connects and another one here. Without a common decision, the
    second rank would wait in PyTorch's own rendezvous until its timeout.
    """

    def give_up(error: TrexError) -> NoReturn:
        kind = {Interrupted: "stopped", MachineLost: "lost"}.get(type(error), "failed")
        meeting.tell({kind: str(error)})
        raise error

    others = set(range(1, waiting.task.world))
    while missing := others - meeting.arrived:
        if waiting.stop or meeting.asked_to_stop:
            give_up(Interrupted(_STOPPED))
        try:
            waiting.require_no_end()
            meeting.work(_POLL_SECONDS)
        except ConnectionError as error:
            give_up(MachineLost(f"{error} ended before the ranks were connected: check its log"))
        except TrexError as error:
            give_up(error)
        if waiting.is_over:
            names = ", ".join(str(rank) for rank in sorted(missing)[:20])
            give_up(
                MachineLost(
                    f"of {waiting.task.world} ranks, these did not connect to rank 0 within {waiting.seconds:g} s "
                    f"(limits.start_seconds): {names}. Check their logs, and the network of their nodes"
                )
            )
    if waiting.stop or meeting.asked_to_stop:
        give_up(Interrupted(_STOPPED))


def _join(waiting: Waiting) -> tuple[Store, str]:
    """Connect to rank 0, wait for its decision, and connect to its store."""
    task, run = waiting.task, waiting.run
    path = run.rendezvous(waiting.key, task.job_id, task.restart)
    while not waiting.is_over:
        waiting.require_no_end()
        if path.exists():
            place = Rendezvous.read(path)
            for address in place.addresses:
                line = connect(address, place.port, place.token, task.rank, place.node != task.node)
                if line is not None:
                    with contextlib.closing(line):
                        return _wait_for_decision(line, waiting)
        time.sleep(_POLL_SECONDS)
    raise MachineLost(
        f"rank 0 could not be reached within {waiting.seconds:g} s (limits.start_seconds; {path}): check its log and "
        f"the network of its node"
    )


def _wait_for_decision(line: Line, waiting: Waiting) -> tuple[Store, str]:
    said = False
    while True:
        try:
            if waiting.stop and not said:
                line.send("stop")
                said = True
            decision = line.receive(_POLL_SECONDS)
        except Closed:
            waiting.require_no_end()
            raise MachineLost("rank 0 ended before the ranks were connected: check its log") from None
        if decision is None:
            if waiting.is_over:
                raise MachineLost(f"rank 0 does not answer: it decided nothing within {waiting.seconds:g} s")
            continue
        if "stopped" in decision:
            raise Interrupted(decision["stopped"])
        if "lost" in decision:
            raise MachineLost(decision["lost"])
        if "failed" in decision:
            raise TrexError(decision["failed"])
        address, port = decision["go"]
        return _store(address, port, waiting.seconds), decision["reached"]


def _addresses_of(names: Sequence[str]) -> list[str]:
    """Return the IPv4 addresses of this node's names, followed by the address of its default route."""
    found: list[str] = []
    for name in names:
        try:
            found += [str(info[4][0]) for info in socket.getaddrinfo(name, None, socket.AF_INET)]
        except OSError:
            continue
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))  # sends nothing; only selects the address of the default route
            found.append(probe.getsockname()[0])
        except OSError:
            pass
    return list(dict.fromkeys(found))


def _choose_interface(reached: str, task: Task) -> None:
    """Tell gloo which network interface leads to the other nodes, unless the user did.

    By default gloo uses the interface that the host name resolves to, which on many systems is the loopback.
    """
    if environment.get("GLOO_SOCKET_IFNAME"):
        return
    address = reached
    if task.rank != 0:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((reached, 1))
            address = probe.getsockname()[0]
    name = _interface_of(address)
    if name is not None:
        environment.update({"GLOO_SOCKET_IFNAME": name})


def _interface_of(address: str) -> str | None:
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                reply = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", name[:15].encode()))  # SIOCGIFADDR
            except OSError:
                continue
            if socket.inet_ntoa(reply[20:24]) == address:
                return name
    return None
