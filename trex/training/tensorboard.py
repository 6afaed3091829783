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
from typing import BinaryIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

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
        RecordWriter(self._file).write(event.SerializeToString())
        self._file.flush()

    def close(self) -> None:
        """Close the file. After an error, what could not be written is lost."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
