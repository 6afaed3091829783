"""The connections of the ranks to rank 0 before they compute: who has arrived, and whether all of them start.

A rank and rank 0 prove to each other that they know the secret of the job, which is in a file that only the user can
read. What comes from any other connection is dropped. PyTorch's own store knows no secret, so it is opened only when
all ranks have arrived, and nothing is decided through it.

    rank 0 → rank   a random number
    rank → rank 0   its rank, another random number, a proof (HMAC of both), the address at which it reached rank 0
    rank 0 → rank   a proof
    rank → rank 0   "stop", if it is asked to stop
    rank 0 → rank   the decision
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import selectors
import socket
import time
from collections.abc import Sequence
from typing import Any

_LONGEST_LINE = 4096
_MOST_STRANGERS = 256  #: connections without a proof; beyond it, the oldest is closed
_SECONDS_TO_ANSWER = 5.0


class Closed(Exception):
    """The other side has closed the connection, or does not know the secret."""


class Line:
    """A connection over which both sides send JSON values, one per line."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = b""

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def send(self, value: Any) -> None:
        """Send a value. It is short, so it fits into the buffer of the system. Raises Closed."""
        try:
            self._socket.sendall(json.dumps(value).encode() + b"\n")
        except OSError as error:
            raise Closed from error

    def receive(self, seconds: float) -> Any:
        """Return the next value, or None if it does not come within some seconds. Raises Closed."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
            try:
                data = self._socket.recv(_LONGEST_LINE)
            except TimeoutError:
                return None
            except OSError as error:
                raise Closed from error
            self._buffer += data
            if not data or len(self._buffer) > _LONGEST_LINE:
                raise Closed
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return json.loads(line)
        except ValueError as error:
            raise Closed from error

    def finish(self) -> None:
        """Close the connection when the other side has read everything and closed it, or after a second.

        If it was closed with something unread, what was sent last could be lost.
        """
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(1.0)
            while self._socket.recv(_LONGEST_LINE):
                pass
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _proof(secret: str, *parts: object) -> str:
    return hmac.new(secret.encode(), json.dumps(parts).encode(), "sha256").hexdigest()


def connect(address: str, port: int, secret: str, rank: int, to_other_node: bool) -> Line | None:
    """Connect to rank 0; None if it is not there, or if who is there does not know the secret."""
    try:
        line = Line(socket.create_connection((address, port), timeout=2.0))
    except OSError:
        return None
    mine = secrets.token_hex(16)
    try:
        theirs = line.receive(_SECONDS_TO_ANSWER)
        proof = _proof(secret, "rank", theirs, mine, rank)
        line.send([rank, mine, proof, address if to_other_node else ""])
        answer = line.receive(_SECONDS_TO_ANSWER)
        if isinstance(answer, str) and hmac.compare_digest(answer, _proof(secret, "rank 0", theirs, mine)):
            return line
    except Closed:
        pass
    line.close()
    return None


class Meeting:
    """Rank 0's side."""

    def __init__(self, addresses: Sequence[str], secret: str) -> None:
        """Listen at IPv4 addresses of this machine, all with the same port.

        Raises:
            OSError: if that is not possible at any of them.
        """
        self._secret = secret
        self._selector = selectors.DefaultSelector()
        self._strangers: dict[Line, str] = {}  #: and the random number that each was sent, the oldest first
        self._arrived: dict[int, Line] = {}
        self.addresses: list[str] = []  #: where it listens
        self.reached = ""  #: the address at which ranks on other nodes reached this one
        self.asked_to_stop = False  #: whether a rank was
        self.port = 0
        problem: OSError | None = None
        for address in addresses:
            try:
                self._listen(address)
            except OSError as error:  # for example a name that resolves to the address of another machine
                problem = error
        if not self.addresses:
            raise problem or OSError("no address to listen at")

    def _listen(self, address: str) -> None:
        listening = socket.create_server((address, self.port), backlog=1024)
        self.port = listening.getsockname()[1]
        self.addresses.append(address)
        self._selector.register(listening, selectors.EVENT_READ)

    @property
    def arrived(self) -> set[int]:
        """The ranks that are connected."""
        return set(self._arrived)

    def work(self, seconds: float) -> None:
        """Accept and answer ranks for some seconds, or until something has happened.

        Raises:
            ConnectionError: a rank that had arrived has ended. The message is its number.
        """
        for key, _ in self._selector.select(seconds):
            if isinstance(key.fileobj, socket.socket):
                self._accept(key.fileobj)
            elif isinstance(key.fileobj, Line):
                self._read(key.fileobj)

    def tell(self, decision: Any) -> None:
        """Send a decision to all ranks that have arrived."""
        for line in self._arrived.values():
            with contextlib.suppress(Closed):
                line.send(decision)

    def close(self) -> None:
        """Close all connections, and listen no longer."""
        for line in self._arrived.values():
            line.finish()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, Line | socket.socket):
                key.fileobj.close()
        self._selector.close()

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        if len(self._strangers) >= _MOST_STRANGERS:
            self._drop(next(iter(self._strangers)))
        line, number = Line(connection), secrets.token_hex(16)
        self._strangers[line] = number
        self._selector.register(line, selectors.EVENT_READ)
        try:
            line.send(number)
        except Closed:
            self._drop(line)

    def _drop(self, line: Line) -> None:
        self._strangers.pop(line, None)
        self._selector.unregister(line)
        line.close()

    def _read(self, line: Line) -> None:
        try:
            while (value := line.receive(0.0)) is not None:
                if line in self._strangers:
                    self._admit(line, value)
                elif value == "stop":
                    self.asked_to_stop = True
        except Closed:
            ended = [rank for rank, one in self._arrived.items() if one is line]
            self._drop(line)
            if ended:
                raise ConnectionError(f"rank {ended[0]}") from None

    def _admit(self, line: Line, value: Any) -> None:
        """Let a connection count as a rank if it proves that it knows the secret. Raises Closed."""
        sent = self._strangers[line]
        if not (isinstance(value, list) and len(value) == 4):
            raise Closed
        rank, number, proof, reached = value
        if not (isinstance(proof, str) and isinstance(rank, int) and isinstance(reached, str)):
            raise Closed
        if not hmac.compare_digest(proof.encode(), _proof(self._secret, "rank", sent, number, rank).encode()):
            raise Closed
        line.send(_proof(self._secret, "rank 0", sent, number))
        del self._strangers[line]
        if earlier := self._arrived.pop(rank, None):  # its answer came too late for the rank, which tried again
            self._drop(earlier)
        self._arrived[rank] = line
        self.reached = self.reached or reached
