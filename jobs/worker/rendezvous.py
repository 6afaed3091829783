"""Lets the ranks of a job find each other: rank 0 listens on a free port and writes its address into the run folder.

No port is computed or configured, so jobs on the same node cannot collide, and no host name needs to resolve. The name
of the file contains the job's id and restart count, so a requeued job never reads the file of an earlier start.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from jobs import environment
from jobs.worker.place import Site, Task
from trex.errors import Interrupted, TrexError
from trex.interruption import StopRequest
from trex.records.rendezvous import Canceled, Rendezvous
from trex.records.run_dir import RunDir

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

#: How long to wait for the other ranks. On a slow file system, processes of a job may start minutes apart.
WAIT_SECONDS = 600.0


def meet(run: RunDir, key: str, task: Task, site: Site, stop: StopRequest) -> Store | None:
    """Return a key-value store that all ranks of this start share; None for a single process.

    Raises:
        Interrupted: if asked to stop while waiting; TrexError: if a rank does not arrive in time.
    """
    if task.world == 1:
        return None
    store = _open(run, key, task, site) if task.rank == 0 else _join(run, key, task, stop)
    _wait_for_all(store, task, stop)
    if task.node_count > 1:
        _choose_interface(store, task)
    return store


def cancel(run: RunDir, key: str, task: Task, reason: str) -> None:
    """Tell the other ranks that rank 0 has ended, so that they do not wait for it."""
    if task.world > 1:
        Canceled(reason).write(run.canceled(key, task.job_id, task.restart))


def _open(run: RunDir, key: str, task: Task, site: Site) -> Store:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=WAIT_SECONDS))
    token = secrets.token_hex(16)
    store.set("token", token)
    names = [*site.addresses(task), socket.gethostname(), socket.getfqdn()] if task.node_count > 1 else []
    addresses = tuple(_addresses_of(names)) if names else ("127.0.0.1",)
    Rendezvous(addresses, store.port, token, task.node).write(run.rendezvous(key, task.job_id, task.restart))
    return store


def _join(run: RunDir, key: str, task: Task, stop: StopRequest) -> Store:
    path, canceled = (place(key, task.job_id, task.restart) for place in (run.rendezvous, run.canceled))
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        stop.check()
        if canceled.exists():
            raise TrexError(f"rank 0 ended before the ranks were connected: {Canceled.read(canceled).reason}")
        if path.exists():
            place = Rendezvous.read(path)
            for address in place.addresses:
                store = _connect(address, place.port, place.token)
                if store is not None:
                    if place.node != task.node:  # a process on rank 0's node may have used a loopback address
                        store.set("reached", address)
                    return store
        time.sleep(0.1)
    raise TrexError(
        f"rank 0 could not be reached within {WAIT_SECONDS:.0f} s ({path}): check its log and the network of its node"
    )


def _wait_for_all(store: Store, task: Task, stop: StopRequest) -> None:
    """Wait until every rank has connected. The first rank that decides to continue or to stop decides for all.

    A signal during start-up may reach one rank before it joins and another one here. Without a common decision, the
    second rank would wait in PyTorch's own rendezvous until its timeout.
    """
    if store.add("arrived", 1) == task.world:
        store.compare_set("decision", "", "go")
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        if stop:
            store.compare_set("decision", "", "off")
        if store.check(["decision"]):
            if store.get("decision") == b"go":
                return
            raise Interrupted(
                "stopped before all ranks were connected; no work was started, the same command starts it"
            )
        if time.monotonic() > deadline:
            raise TrexError(
                f"only some of the {task.world} ranks were connected within {WAIT_SECONDS:.0f} s: check the log of each"
            )
        time.sleep(0.05)


def _connect(address: str, port: int, token: str) -> Store | None:
    """Connect to the store at that address; None if it is unreachable or belongs to another job."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        socket.create_connection((address, port), timeout=2.0).close()
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=10))
        if store.get("token").decode() != token:
            return None
    except (OSError, RuntimeError):
        return None
    store.set_timeout(timedelta(seconds=WAIT_SECONDS))
    return store


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


def _choose_interface(store: Store, task: Task) -> None:
    """Tell gloo which network interface leads to the other nodes, unless the user did.

    By default gloo uses the interface that the host name resolves to, which on many systems is the loopback.
    """
    if environment.get("GLOO_SOCKET_IFNAME"):
        return
    reached = store.get("reached").decode()
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
