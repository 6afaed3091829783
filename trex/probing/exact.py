"""The `exact` protocol: C chosen on validation images along a path of certified optima, then a refit on all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trex.interruption import StopRequest
from trex.probing.path import Basis, Path
from trex.probing.split import Fold

#: C from 1e-5 to 1e6, two values a decade.
GRID = tuple(float(f"{10 ** (power / 2):.6g}") for power in range(-10, 13))
#: The path ends when validation has not gained a quarter of a standard error over so many values (1.5 decades).
PATIENCE = 3
#: C of a set with one image a class, where there is nothing to choose by.
FALLBACK_C = 1.0


@dataclass(frozen=True)
class Choice:
    """The chosen hyper-parameters, and everything that was tried."""

    best: dict[str, float]
    validation_top1: float | None
    edge: str | None  #: "low" or "high" where the choice lies at an end of the range
    trials: list[dict[str, Any]]


def choose_c(
    rotated: Tensor, labels: Tensor, classes: int, basis: Basis, folds: Sequence[Fold], stop: StopRequest
) -> Choice:
    """The smallest C whose validation accuracy is within half a standard error of the best.

    Args:
        rotated: (N, r + 1) features in `basis`; labels: (N,) int64.
        classes: number of classes.
        basis: eigenbasis of the features.
        folds: what to train and validate on; accuracies are means over them, weighted by their images.
        stop: looked at before each solution.
    """
    if not folds:
        return Choice({"C": FALLBACK_C}, None, None, [])
    paths = [Path(rotated[fold[0]], labels[fold[0]], classes, basis) for fold in folds]
    images = sum(len(fold[1]) for fold in folds)
    trials: list[dict[str, Any]] = []
    for c in GRID:
        began = time.monotonic()
        hits = 0
        for path, (_, validation) in zip(paths, folds, strict=True):
            stop.check()
            predicted = predict(rotated[validation], path.solve(c).weights)
            hits += int((predicted == labels[validation]).sum())
        trials.append({"C": c, "validation_top1": hits / images, "seconds": round(time.monotonic() - began, 4)})
        if _flat(trials, images):
            break
    return _choice(trials, images)


def fit(rotated: Tensor, labels: Tensor, classes: int, basis: Basis, c: float) -> Tensor:
    """(K, r + 1) weights at C = `c`, by a coarse path up to it: a cold start at a large C is slow."""
    path = Path(rotated, labels, classes, basis)
    for start in (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5):
        if start < c:
            path.solve(start)
    return path.solve(c).weights


def predict(rotated: Tensor, weights: Tensor) -> Tensor:
    """(N,) int64 classes of the highest logit."""
    return (rotated @ weights.T).argmax(1)


def _standard_error(accuracy: float, images: int) -> float:
    return float(np.sqrt(max(accuracy * (1 - accuracy), 0.25 / images) / images))


def _flat(trials: list[dict[str, Any]], images: int) -> bool:
    accuracies = [trial["validation_top1"] for trial in trials]
    if len(accuracies) <= PATIENCE or max(accuracies) == min(accuracies):
        return False
    before = max(accuracies[:-PATIENCE])
    return bool(max(accuracies[-PATIENCE:]) <= before + 0.25 * _standard_error(before, images))


def _choice(trials: list[dict[str, Any]], images: int) -> Choice:
    best = max(trial["validation_top1"] for trial in trials)
    enough = best - 0.5 * _standard_error(best, images)
    place = next(i for i, trial in enumerate(trials) if trial["validation_top1"] >= enough)
    chosen = trials[place]
    edge = "low" if chosen["C"] == GRID[0] else "high" if chosen["C"] == GRID[-1] else None
    return Choice({"C": chosen["C"]}, chosen["validation_top1"], edge, trials)


def as_tensor(labels: np.ndarray) -> Tensor:
    """Labels as the solver takes them, (N,) int64."""
    return torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64))
