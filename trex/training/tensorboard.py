"""A copy of a run's metrics for TensorBoard.

PyTorch's SummaryWriter writes in a thread, which prints a traceback when the disk is full. This writes at once, so that
an error reaches the caller. TensorBoard's own writer of records would import 200 modules for 12 bytes per record.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

from trex.storage import make_folder


class Board:
    """One new file of events in the folder that TensorBoard shows. A start that logs nothing leaves no file."""

    def __init__(self, folder: Path, step: int) -> None:
        """TensorBoard will hide what older files hold from `step` on."""
        self._folder, self._step = folder, step
        self._file: BinaryIO | None = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add values by name. Raises OSError."""
        if self._file is None:
            self._begin()
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._write(Event(step=step, summary=summary))

    def _begin(self) -> None:
        make_folder(self._folder)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{time.time_ns()}"
        self._file = (self._folder / name).open("wb")
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=self._step, session_log=SessionLog(status=SessionLog.START)))

    def _write(self, event: Event) -> None:
        assert self._file is not None, "the file was begun"
        event.wall_time = time.time()
        self._file.write(framed(event.SerializeToString()))
        self._file.flush()

    def close(self) -> None:
        """Close the file. After an error, what could not be written is lost."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()


def framed(content: bytes) -> bytes:
    """Return a record of a file of events: its length (uint64), the length's checksum, the content, its checksum.

    All numbers are little-endian. The checksums are `masked_crc32c`. This is TensorFlow's TFRecord format.
    """
    length = struct.pack("<Q", len(content))
    return b"".join((length, _checksum(length), content, _checksum(content)))


def _checksum(content: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(content))


def masked_crc32c(content: bytes) -> int:
    """Return the CRC-32C of RFC 3720, rotated right by 15 bits, plus 0xA282EAD8, modulo 2**32."""
    crc, table = 0xFFFFFFFF, _table()
    for byte in content:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _table() -> tuple[int, ...]:
    """Return the remainder of each byte divided by the reversed polynomial of CRC-32C."""

    def remainder(value: int) -> int:
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        return value

    return tuple(map(remainder, range(256)))
