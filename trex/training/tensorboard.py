"""A copy of a run's metrics for TensorBoard.

PyTorch's SummaryWriter writes in a thread, which prints a traceback when the disk is full. This writes at once, so that
an error reaches the caller.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from trex.storage import make_folder


class Board:
    """One new file of events in the folder that TensorBoard shows."""

    def __init__(self, folder: Path, step: int) -> None:
        """Begin a file. TensorBoard hides what older files hold from `step` on. Raises OSError."""
        make_folder(folder)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{time.time_ns()}"
        self._file = (folder / name).open("wb")
        self._writer = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add values by name. Raises OSError."""
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._write(Event(step=step, summary=summary))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())
        self._file.flush()

    def close(self) -> None:
        """Close the file. After an error, what could not be written is lost."""
        with contextlib.suppress(OSError):
            self._file.close()
