"""Worker processes of a DataLoader: how they start and end, and how their batches and errors are received."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import forkserver, get_context, parent_process, queues, resource_tracker
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data._utils import signal_handling

from trex.errors import TrexError
from trex.images.decode import ImageFault
from trex.interruption import SIGNALS, StopRequest, leave_signals_to_parent
from trex.loading import sockets
from trex.loading.shared_memory import SHARED_MEMORY

T = TypeVar("T")

_CANNOT_HAND_OVER = 74  #: exit code of a worker whose batch cannot be sent; its log says why
_POLL_SECONDS = 0.5
_SECONDS_TO_END = 1.0


@contextlib.contextmanager
def block_stop_signals() -> Iterator[None]:
    """Processes that are started in this block ignore stop signals from the beginning.

    Some clusters send signals to all processes of a job. If a signal ended a worker, the batch would be lost, and the
    job could not save its checkpoint.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def worker_context(workers: int, crops: bool = False) -> ForkServerContext | None:
    """Return how the processes of a DataLoader start: as forks of a server process that only imports.

    The ranks must not fork. Their threads of gloo, NCCL and CUDA may hold a lock at that moment, also Python's own: the
    fork, which has no such thread, would wait for it forever, and all ranks would wait for its batch. (Seen with Python
    3.11 and gloo, at the start of a validation.)

    The server starts at the first call, and imports PyTorch while the caller goes on.

    Args:
        workers: the number of worker processes; without any, there is no server, and None is returned.
        crops: whether the server compiles the code of the crops before it forks, if it starts now.
    """
    if not workers:
        return None
    sockets.use_short_folder()
    context = get_context("forkserver")
    modules = ["trex.loading.evaluation", "trex.loading.training"]
    context.set_forkserver_preload(modules + ["trex.images.compile_crops"] * crops)
    resource_tracker.ensure_running()  # it would unblock signals if the server started it
    with block_stop_signals():
        forkserver.ensure_running()
    return context


def start_worker(_worker: int) -> None:
    """Set up a worker process: computes with one thread, ignores stop signals, ends when its rank has ended."""
    leave_signals_to_parent()
    torch.set_num_threads(1)
    queues.Queue._on_queue_feeder_error = staticmethod(_end_without_handing_over)  # type: ignore[attr-defined]
    threading.Thread(target=_end_with_rank, daemon=True).start()


def _end_with_rank() -> None:
    """End this process when the rank has ended, for example by SIGKILL.

    DataLoader's own check looks at the process that forked this one, the server, and the server lives as long as one of
    its workers.
    """
    rank = parent_process()
    assert rank is not None, "a worker has a rank"
    rank.join()
    sockets.remove_folder()  # if the rank was killed
    os._exit(1)


def _end_without_handing_over(error: Exception, _batch: object) -> None:
    """End this process, because its batch cannot be sent. By default, the batch would be lost and waited for."""
    sys.stderr.write(f"loader process {os.getpid()} cannot hand over its batch: {type(error).__name__}: {error}\n")
    sys.stderr.flush()
    os._exit(_CANNOT_HAND_OVER)


@dataclass(frozen=True)
class Wait:
    """How long to wait for a batch."""

    stop: StopRequest = field(default_factory=StopRequest)  #: true once a signal has asked to stop
    seconds: Callable[[], float] = lambda: math.inf  #: returns the present time limit


def received(batches: Any, wait: Wait) -> Iterator[Any]:
    """Yield what the worker processes of a DataLoader's iterator make, and end if one of them does not go on.

    While a stop is requested, None is yielded instead of a batch that is not there yet; it comes later.

    A thread receives the batches, because it may hang too: a worker that is stopped does not hand over a batch that is
    ready.

    Raises:
        TrexError: if a worker has ended, or has not handed over the next batch in time.
    """
    if not hasattr(batches, "_workers"):
        yield from batches
        return
    wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
    made: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(batches, wanted, made), daemon=True).start()
    try:
        while True:
            wanted.put(True)
            deadline = time.monotonic() + wait.seconds()
            while made.empty():
                if wait.stop:
                    yield None
                elif time.monotonic() > deadline:
                    raise TrexError(_why_late(batches, wait.seconds()))
                else:
                    with contextlib.suppress(queue.Empty):
                        made.put(made.get(timeout=_POLL_SECONDS))
            batch = made.get()
            if batch is _END:
                return
            if isinstance(batch, Exception) and not isinstance(batch, ImageFault):
                raise TrexError(why) if (why := _why_ended(batches)) else batch
            yield batch
    finally:
        wanted.put(False)


def take(batches: Iterator[T]) -> tuple[T | None, TrexError | None]:
    """Return the next batch, or None at the end; and the error that came instead, so that all ranks can agree on it."""
    try:
        return next(batches, None), None
    except TrexError as error:
        return None, error


_END = object()


def _receive(batches: Any, wanted: queue.SimpleQueue[bool], made: queue.SimpleQueue[Any]) -> None:
    while wanted.get():
        try:
            made.put(next(batches, _END))
        except Exception as error:
            made.put(error)


def _why_ended(batches: Any) -> str:
    """Name the worker processes that have ended, and why. Their ends may become known a moment later."""
    deadline = time.monotonic() + _SECONDS_TO_END
    while all(worker.exitcode is None for worker in batches._workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    reasons = {
        -signal.SIGBUS: f"by SIGBUS: {SHARED_MEMORY} is full. Reduce data.workers or the batch size, or enlarge it",
        -signal.SIGKILL: "by SIGKILL, as when memory runs out. Reduce data.workers or ask for more memory",
        _CANNOT_HAND_OVER: "because it could not hand over its batch: the line above in this log says why",
    }
    return "; ".join(
        f"loader process {worker.pid} has ended "
        + reasons.get(worker.exitcode, f"with code {worker.exitcode}: its error is above in this log")
        for worker in batches._workers
        if worker.exitcode is not None
    )


def _why_late(batches: Any, seconds: float) -> str:
    """Name the worker process whose batch is waited for, and those that cannot run."""
    number = batches._task_info[batches._rcvd_idx][0]
    states = {worker.pid: _state(worker.pid) for worker in batches._workers}
    waited_for = batches._workers[number].pid
    others = "".join(
        f"; loader process {pid} {state}" for pid, state in states.items() if pid != waited_for and state in _HELD
    )
    return (
        f"loader process {waited_for} has made no batch in {seconds:g} s; it {states[waited_for]}"
        f"{others}. Check the file system of the images, and the lines above in this log. If reading a batch can take "
        f"longer, raise limits.step_seconds (limits.start_seconds for the first batch)"
    )


_HELD = ("is stopped (SIGSTOP)", "waits for a disk or file system")


def _state(pid: int) -> str:
    try:
        letter = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return "has ended"
    known = {"T": _HELD[0], "t": _HELD[0], "D": _HELD[1], "R": "computes", "Z": "has ended"}
    return known.get(letter, "waits")


def end_workers(batches: Any) -> None:
    """End the worker processes of a DataLoader's iterator at once.

    PyTorch's own way waits for workers that are stopped, and for locks that a killed worker may have held.
    """
    if not hasattr(batches, "_workers") or batches._shutdown:
        return
    batches._shutdown = True  # so that PyTorch does nothing when the iterator is deleted
    if batches._pin_memory:
        batches._pin_memory_thread_done_event.set()
    for worker in batches._workers:
        worker.kill()
    for worker in batches._workers:
        worker.join(_SECONDS_TO_END)
    for indices in batches._index_queues:
        indices.cancel_join_thread()
        indices.close()
    if batches._worker_pids_set:
        signal_handling._remove_worker_pids(id(batches))  # type: ignore[attr-defined]
        batches._worker_pids_set = False
