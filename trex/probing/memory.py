"""How much memory a probe takes, known before it is queued. Imports nothing heavy: submitting asks it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from trex.config.schema import ProbeConfig
from trex.errors import UserError
from trex.probing.kinds import fitted_by

#: Float32 numbers of a piece of rows, and of logits (few enough for the processor's caches): what is computed at once.
PIECE = 16 << 20
LOGITS = 2 << 20
#: Curvature pairs of the exact solver.
PAIRS = 12
#: The interpreter with PyTorch, scikit-learn and Optuna.
_PROGRAM = 700 << 20
_FLOAT = 4

Need = Literal["exact", "lbfgs", "sgd", "knn"]


@dataclass(frozen=True)
class Size:
    """What the need of a probe depends on."""

    trainval: int  #: images
    test: int
    dim: int  #: of a feature
    classes: int


@dataclass(frozen=True)
class SolverMemory:
    """What the exact solver keeps in memory; what it does not, it computes anew each time, in pieces."""

    rows: bool  #: the rotated features; else they are read from the file
    logits: bool  #: the logits of all images, and those along a search direction; else two products more a step
    bytes: int  #: of all


def piece_rows(dim: int, classes: int) -> int:
    """Rows of a piece."""
    return max(min(PIECE // (dim + 1), LOGITS // classes), 64)


def plan_exact(size: Size, limit: float) -> SolverMemory:
    """The fastest way of the exact solver within `limit` bytes.

    Raises:
        UserError: if even the slowest takes more.
    """
    ways = [_exact(size, rows, logits) for rows, logits in ((True, True), (True, False), (False, True), (False, False))]
    for way in ways:
        if way.bytes <= limit:
            return way
    raise UserError(_too_little(ways[-1].bytes, limit))


def least_bytes(size: Size, need: Need) -> int:
    """Memory without which a probe cannot be fitted at all."""
    if need == "exact":
        return _exact(size, rows=False, logits=False).bytes
    return _others(size, need)


def used_bytes(size: Size, need: Need, limit: float) -> int:
    """Memory that a probe takes when it may take `limit` bytes. Raises UserError if that is too little."""
    if need == "exact":
        return plan_exact(size, limit).bytes
    least = _others(size, need)
    if least > limit:
        raise UserError(_too_little(least, limit))
    return least


def needs_of(dataset: str, config: ProbeConfig) -> Iterator[Need]:
    """What the probes of a dataset are fitted by."""
    if config.protocol == "exact":
        yield "exact"
    else:
        yield "sgd" if fitted_by(config, dataset) == "SGD" else "lbfgs"
    if config.neighbors:
        yield "knn"


def _exact(size: Size, rows: bool, logits: bool) -> SolverMemory:
    n, d, k = size.trainval, size.dim + 1, size.classes
    weights = (3 * PAIRS + 12) * k * d * _FLOAT
    basis = 4 * size.dim * min(size.dim, max(n, 1)) * 8
    pieces = 4 * _FLOAT * PIECE + 10 * _FLOAT * max(LOGITS, 64 * k)
    kept_rows = (9 * n // 5 + size.test) * d * _FLOAT if rows else 0  # of trainval, of train alone, of test
    kept_logits = 3 * n * k * _FLOAT if logits else 0
    return SolverMemory(rows, logits, _PROGRAM + weights + basis + pieces + kept_rows + kept_logits)


def _others(size: Size, need: Need) -> int:
    n, d, k = size.trainval, size.dim + 1, size.classes
    if need == "lbfgs":  # the features, a fold of them, scikit-learn's copies and logits, its curvature pairs
        return _PROGRAM + 3 * n * d * _FLOAT + 4 * n * k * 8 + 24 * k * d * 8
    if need == "sgd":  # batches are read from the file
        return _PROGRAM + 8 * k * d * _FLOAT + 4 * 1024 * (d + k) * _FLOAT + 4 * PIECE * _FLOAT
    return _PROGRAM + size.test * d * _FLOAT + 6 * PIECE * _FLOAT


def _too_little(least: int, limit: float) -> str:
    return (
        f"probe.memory_gb is {limit / 1e9:g}, and the smallest way to fit this probe takes {least / 1e9:.1f} GB: "
        f"set probe.memory_gb={-(-least // 10**8) / 10:g} or more"
    )
