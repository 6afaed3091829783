"""Worker processes of a DataLoader: how they start and end, and how an error in one reaches the user."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from multiprocessing.context import ForkServerContext
from typing import Any, TypeVar

import torch

from trex.images.decode import ImageFault
from trex.interruption import SIGNALS, leave_signals_to_parent

T = TypeVar("T")


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


def worker_context(workers: int) -> ForkServerContext | None:
    """Return how the processes of a DataLoader start: as forks of a server process that only imports.

    The ranks must not fork. Their threads of gloo, NCCL and CUDA may hold a lock at that moment, also Python's own: the
    fork, which has no such thread, would wait for it forever, and all ranks would wait for its batch. (Seen with Python
    3.11 and gloo, at the start of a validation.)

    The server starts at the first call, and imports PyTorch while the caller goes on.

    Args:
        workers: the number of worker processes; without any, there is no server, and None is returned.
    """
    if not workers:
        return None
    context = get_context("forkserver")
    context.set_forkserver_preload(["trex.loading.evaluation", "trex.loading.training"])
    resource_tracker.ensure_running()  # it would unblock signals if the server started it
    with block_stop_signals():
        forkserver.ensure_running()
    return context


def start_worker(_worker: int) -> None:
    """Set up a worker process: computes with one thread, ignores stop signals, ends when its rank has ended."""
    leave_signals_to_parent()
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_rank, daemon=True).start()


def _end_with_rank() -> None:
    """End this process when the rank has ended, for example by SIGKILL.

    DataLoader's own check looks at the process that forked this one, the server, and the server lives as long as one of
    its workers.
    """
    rank = parent_process()
    assert rank is not None, "a worker has a rank"
    rank.join()
    os._exit(1)


def fault_or(collate: Callable[[list[Any]], T]) -> Callable[[list[Any]], T | ImageFault]:
    """A collate function that returns the first ImageFault among the samples, if there is one.

    If the worker raised the fault instead, DataLoader would wrap its message in a traceback.
    """
    return _FaultOr(collate)


class _FaultOr:
    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        for sample in samples:
            if isinstance(sample, ImageFault):
                return sample
        return self.collate(samples)


def end_workers(batches: Any) -> None:
    """End the worker processes of a DataLoader's iterator immediately, by force if necessary."""
    if not hasattr(batches, "_shutdown_workers"):
        return
    batches._shutdown_workers()
    for worker in batches._workers:
        if worker.is_alive():
            worker.kill()
