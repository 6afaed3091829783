"""How much RAM a probe takes, known before it is queued. Imports nothing heavy: submitting asks it."""

from __future__ import annotations

from dataclasses import dataclass

from trex.errors import UserError

#: Float32 numbers of a piece of rows, and of logits (few enough for the processor's caches): what is computed at once.
PIECE = 16 << 20
LOGITS = 2 << 20
#: Curvature pairs of the exact solver.
PAIRS = 12
#: Bytes of the interpreter with PyTorch, scikit-learn and Optuna; of a float32.
PROGRAM = 700 << 20
FLOAT = 4


@dataclass(frozen=True)
class Size:
    """What the memory of a probe depends on."""

    trainval: int  #: images
    test: int
    dim: int  #: of a feature
    classes: int


@dataclass(frozen=True)
class SolverMemory:
    """What the exact solver keeps in memory; the rest it computes again each time, in pieces."""

    rows: bool  #: the rotated features; else they are read from the file
    logits: bool  #: the logits of all images, and those along a search direction; else two more products per step
    bytes: int  #: of everything


def piece_rows(dim: int, classes: int) -> int:
    """Rows of a piece."""
    return max(min(PIECE // (dim + 1), LOGITS // classes), 64)


def solver_memory(size: Size, limit: float) -> SolverMemory:
    """The fastest way of the exact solver within `limit` bytes.

    Raises:
        UserError: if even the slowest takes more.
    """
    for rows, logits in ((True, True), (True, False), (False, True)):
        found = _solver_memory(size, rows, logits)
        if found.bytes <= limit:
            return found
    least = least_solver_memory(size)
    require(least.bytes, limit)
    return least


def least_solver_memory(size: Size) -> SolverMemory:
    """The way of the exact solver that takes the least."""
    return _solver_memory(size, rows=False, logits=False)


def require(least: int, limit: float) -> int:
    """`least` bytes. Raises UserError if they are more than the `limit` that a probe may take."""
    if least > limit:
        raise UserError(
            f"probe.memory_gb is {limit / 1e9:g}, and the smallest way to fit this probe takes {least / 1e9:.1f} GB: "
            f"set probe.memory_gb={-(-least // 10**8) / 10:g} or more"
        )
    return least


def _solver_memory(size: Size, rows: bool, logits: bool) -> SolverMemory:
    n, d, k = size.trainval, size.dim + 1, size.classes
    weights = (3 * PAIRS + 12) * k * d * FLOAT
    basis = 4 * size.dim * min(size.dim, max(n, 1)) * 8
    pieces = 4 * FLOAT * PIECE + 10 * FLOAT * max(LOGITS, 64 * k)
    kept_rows = (9 * n // 5 + size.test) * d * FLOAT if rows else 0  # of trainval, of train alone, of test
    kept_logits = 3 * n * k * FLOAT if logits else 0
    return SolverMemory(rows, logits, PROGRAM + weights + basis + pieces + kept_rows + kept_logits)
