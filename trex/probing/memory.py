"""How much RAM a probe needs. Used when jobs are submitted, so it must not import torch or numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trex.errors import UserError

#: The most numbers in a piece of features.
PIECE = 16 << 20
#: The most logits per piece, so that they fit into the processor's caches, and the fewest images, so that products take
#: little longer than with more.
LOGITS, LEAST_ROWS = 2 << 20, 512
#: Images of the exact solver's line search, and the most logits that they may have; up to four times as many if the
#: logits of all images are kept.
SAMPLE, SAMPLE_LOGITS = 1 << 13, 16 << 20
#: Curvature pairs that the exact solver keeps for L-BFGS: as many as PAIR_NUMBERS numbers hold, within these limits.
#: With many pairs it needs a tenth of the iterations if there is little regularization.
PAIRS, MANY_PAIRS, PAIR_NUMBERS = 12, 100, 2_000_000
#: Bytes that the interpreter takes with PyTorch, scikit-learn and Optuna.
PROGRAM = 700 << 20
#: The most bytes of the paths that final fits of several seeds share.
SHARED_STATES = 64 << 20
#: Bytes per float32.
FLOAT = 4
#: The exact solver computes in float64 if images x dimensions x classes, and images x dimensions, are at most this.
SMALL_PRODUCT, SMALL_ROWS = 10**8, 10**7

#: Where the exact solver has the features: rotated in memory, in float16 in memory, or in the file.
Place = Literal["rotated", "half", "file"]


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

    rows: Place
    logits: bool  #: whether it keeps the logits of all images
    bytes: int  #: RAM in total


def piece_rows(dim: int, classes: int) -> int:
    """The number of rows in a piece."""
    return min(PIECE // (dim + 1), max(LOGITS // classes, LEAST_ROWS))


def is_small(images: int, dim: int, classes: int) -> bool:
    """Whether the exact solver computes a problem of this size in float64: its products take milliseconds."""
    return images * dim * classes <= SMALL_PRODUCT and images * dim <= SMALL_ROWS


def sample_images(classes: int) -> int:
    """The number of images of a line search."""
    return max(min(SAMPLE, SAMPLE_LOGITS // classes), 1)


def curvature_pairs(classes: int, dim: int) -> int:
    """The number of curvature pairs for (classes, dim) weights."""
    return min(max(PAIR_NUMBERS // (2 * classes * dim), PAIRS), MANY_PAIRS)


def solver_memory(size: Size, limit: float) -> SolverMemory:
    """The fastest choice for the exact solver that fits into `limit` bytes.

    Raises:
        UserError: if even the smallest choice does not fit.
    """
    for found in choices(size):
        if found.bytes <= limit:
            return found
    least = least_solver_memory(size)
    require(least.bytes, limit)
    return least


def choices(size: Size) -> list[SolverMemory]:
    """What the exact solver may keep in memory, the fastest choice first, each with less RAM than that before it."""
    found: list[SolverMemory] = []
    wanted: tuple[tuple[Place, bool], ...] = (
        ("rotated", True), ("half", True), ("rotated", False), ("half", False), ("file", False),
    )  # fmt: skip
    for rows, logits in wanted:
        one = SolverMemory(rows, logits, _bytes(size, rows, logits))
        if not found or one.bytes < found[-1].bytes:
            found.append(one)
    return found


def least_solver_memory(size: Size) -> SolverMemory:
    """The choice for the exact solver that needs the least RAM."""
    return choices(size)[-1]


def require(least: int, limit: float) -> int:
    """Return `least`, the bytes that a probe needs. Raises UserError if that is more than `limit` bytes."""
    if least > limit:
        raise UserError(
            f"probe.memory_gb is {limit / 1e9:g}, but this probe needs at least {least / 1e9:.1f} GB: "
            f"set probe.memory_gb={-(-least // 10**8) / 10:g} or more"
        )
    return least


def _bytes(size: Size, rows: Place, logits: bool) -> int:
    n, d, k = size.trainval, size.dim + 1, size.classes
    number = 2 * FLOAT if is_small(n, d, k) else FLOAT
    weights = (3 * curvature_pairs(k, d) + 24) * k * d * number
    basis = 4 * size.dim * min(size.dim, max(n, 1)) * 8
    pieces = 4 * FLOAT * PIECE + 10 * FLOAT * max(LOGITS, LEAST_ROWS * k)
    kept = {
        # all of trainval, a copy of the images that it trains on, also in bfloat16
        "rotated": 2 * n * d * number + n * d * FLOAT // 2,
        "half": n * d * FLOAT // 2,
        "file": min(n, sample_images(k)) * d * FLOAT // 2,
    }[rows]
    of_line = min(n, (4 if logits else 1) * sample_images(k)) * k * number  # the logits' changes in a line search
    kept += n * k * number + 3 * of_line if logits else 2 * of_line  # and the residuals before and after it
    return PROGRAM + SHARED_STATES + weights + basis + pieces + kept
