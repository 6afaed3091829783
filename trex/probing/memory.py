"""How much RAM a probe needs. Used when jobs are submitted, so it must not import torch or numpy."""

from __future__ import annotations

from dataclasses import dataclass

from trex.errors import UserError

#: The most numbers in a piece of features.
PIECE = 16 << 20
#: The most logits per piece, so that they fit into the processor's caches.
LOGITS = 2 << 20
#: Curvature pairs that the exact solver keeps for L-BFGS: as many as PAIR_NUMBERS numbers hold, within these limits.
#: With many pairs it needs a tenth of the iterations if there is little regularization.
PAIRS, MANY_PAIRS, PAIR_NUMBERS = 12, 100, 2_000_000
#: Bytes that the interpreter takes with PyTorch, scikit-learn and Optuna.
PROGRAM = 700 << 20
#: Bytes per float32.
FLOAT = 4
#: The exact solver computes in float64 if images x dimensions x classes, and images x dimensions, are at most this.
SMALL_PRODUCT, SMALL_ROWS = 10**8, 10**7


@dataclass(frozen=True)
class Size:
    """The sizes that the memory of a probe depends on."""

    trainval: int  #: images
    test: int  #: images
    dim: int  #: numbers per feature
    classes: int


@dataclass(frozen=True)
class SolverMemory:
    """What the exact solver keeps in memory. It computes the rest again in every pass, in pieces."""

    rows: bool  #: whether it keeps the rotated features; otherwise it reads the features from the file
    logits: bool  #: whether it keeps the logits of all images; otherwise each step takes two more products
    bytes: int  #: RAM in total


def piece_rows(dim: int, classes: int) -> int:
    """The number of rows in a piece."""
    return max(min(PIECE // (dim + 1), LOGITS // classes), 64)


def is_small(images: int, dim: int, classes: int) -> bool:
    """Whether the exact solver computes a problem of this size in float64: its products take milliseconds."""
    return images * dim * classes <= SMALL_PRODUCT and images * dim <= SMALL_ROWS


def curvature_pairs(classes: int, dim: int) -> int:
    """The number of curvature pairs for (classes, dim) weights."""
    return min(max(PAIR_NUMBERS // (2 * classes * dim), PAIRS), MANY_PAIRS)


def solver_memory(size: Size, limit: float) -> SolverMemory:
    """The fastest choice for the exact solver that fits into `limit` bytes.

    Raises:
        UserError: if even the smallest choice does not fit.
    """
    for rows, logits in ((True, True), (True, False), (False, True)):
        found = _solver_memory(size, rows, logits)
        if found.bytes <= limit:
            return found
    least = least_solver_memory(size)
    require(least.bytes, limit)
    return least


def least_solver_memory(size: Size) -> SolverMemory:
    """The choice for the exact solver that needs the least RAM."""
    return _solver_memory(size, rows=False, logits=False)


def require(least: int, limit: float) -> int:
    """Return `least`, the bytes that a probe needs. Raises UserError if that is more than `limit` bytes."""
    if least > limit:
        raise UserError(
            f"probe.memory_gb is {limit / 1e9:g}, but this probe needs at least {least / 1e9:.1f} GB: "
            f"set probe.memory_gb={-(-least // 10**8) / 10:g} or more"
        )
    return least


def _solver_memory(size: Size, rows: bool, logits: bool) -> SolverMemory:
    n, d, k = size.trainval, size.dim + 1, size.classes
    number = 2 * FLOAT if is_small(n, d, k) else FLOAT
    weights = (3 * curvature_pairs(k, d) + 24) * k * d * number
    basis = 4 * size.dim * min(size.dim, max(n, 1)) * 8
    pieces = 4 * FLOAT * PIECE + 10 * FLOAT * max(LOGITS, 64 * k)
    kept_rows = (9 * n // 5 + size.test) * d * number if rows else 0  # of trainval, its training images, test
    kept_logits = 3 * n * k * number if logits else 0
    return SolverMemory(rows, logits, PROGRAM + weights + basis + pieces + kept_rows + kept_logits)
