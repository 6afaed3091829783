"""Ports that are reserved for the daemons before they listen on them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def reserved_ports(count: int, address: str) -> Iterator[dict[int, socket.socket]]:
    """Reserve `count` ports of `address`. Gives each port and the socket that reserves it.

    A reserving socket is bound to its port, but does not listen. As long as a process has it open, the kernel gives the
    port to no connection and to no program that asks for any free port, such as another sandbox. Slurm's daemons can
    listen on it, because they set SO_REUSEADDR as these sockets do.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((address, 0))
        yield {one.getsockname()[1]: one for one in sockets}
