"""Whether the batches that loader processes make ahead fit into the shared memory of a machine. Imports no PyTorch."""

from __future__ import annotations

import os
from pathlib import Path

from trex.errors import UserError

PREFETCH = 4  #: batches that each worker makes ahead
#: The most images that a loader process of an extraction hands over at once. A batch of the encoder is put together of
#: several parts, so that all processes work on the first batch, and small datasets have enough parts for all of them.
PART = 32

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where PyTorch puts the batches that it hands over


def part_bytes(batch_size: int, crop: int) -> int:
    """Bytes of what a loader process of an extraction hands over at once.

    Args:
        batch_size: images per batch of the encoder.
        crop: side of the images, pixels.
    """
    return min(batch_size, PART) * 3 * crop**2


def require_shared_memory(batch_bytes: int, workers: int, ranks_here: int, batch_setting: str) -> None:
    """Raise UserError if the batches that the workers make ahead do not fit into the shared memory of this machine.

    Args:
        batch_bytes: size of one batch of one rank.
        workers: loader processes per rank.
        ranks_here: ranks on this machine.
        batch_setting: the setting of the batch size, for the message.
    """
    if not workers:
        return
    try:
        here = os.statvfs(SHARED_MEMORY)
        free = here.f_bavail * here.f_frsize
    except OSError:
        free = 0
    per_worker = batch_bytes * PREFETCH * ranks_here
    if per_worker * workers > free:
        raise UserError(
            f"{SHARED_MEMORY} has {free / 1e6:.1f} MB free, and the batches need up to "
            f"{per_worker * workers / 1e6:.1f} MB there: {batch_bytes / 1e6:.1f} MB x {PREFETCH} ahead x {workers} "
            f"loader processes x {ranks_here} ranks on this machine. Set data.workers={free // per_worker}, reduce "
            f"{batch_setting}, or enlarge {SHARED_MEMORY} (in a container: --shm-size)"
        )
