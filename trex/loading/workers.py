"""Loader processes: how they start, how they end, and how a fault in one reaches the user."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from trex.images.decode import ImageFault
from trex.interruption import SIGNALS, leave_signals_to_parent

T = TypeVar("T")


@contextlib.contextmanager
def block_stop_signals() -> Iterator[None]:
    """Processes started in this block never get the stop signals, from their first instruction on.

    Some clusters signal whole process trees; a worker that it ended would take the batch, and the checkpoint, with it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(_worker: int) -> None:
    """Set up a loader process: one thread, no stop signals."""
    leave_signals_to_parent()
    torch.set_num_threads(1)


def fault_or(collate: Callable[[list[Any]], T]) -> Callable[[list[Any]], T | ImageFault]:
    """A collate function that hands on the first fault among the samples: raised in a worker, its message would
    arrive wrapped in a traceback."""
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
    """End the processes of a DataLoader's iterator, at once and for sure."""
    if not hasattr(batches, "_shutdown_workers"):
        return
    batches._shutdown_workers()
    for worker in batches._workers:
        if worker.is_alive():
            worker.kill()
