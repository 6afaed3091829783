"""The memory of a training on CPUs."""

from __future__ import annotations

import ctypes

#: Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next allocations (mallopt(3)).

    By default glibc returns large tensors to the system as soon as they are freed. Each step then gets all activations
    as new pages, which the system fills with zeros first. The process never gets smaller after this call.

    Returns:
        Whether the C library is one that can do this.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
