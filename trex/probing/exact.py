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
from trex.probing.design import Design
from trex.probing.folds import Fold
from trex.probing.partial import Partial
from trex.probing.solver import RegularizationPath

#: C from 1e-5 to 1e6, two values a decade.
GRID = tuple(float(f"{10 ** (power / 2):.6g}") for power in range(-10, 13))
#: The path ends when validation has not gained a quarter of a standard error over so many values (1.5 decades),
PATIENCE = 3
#: and when, before those, the training loss had come below this part of what knowing the classes' shares alone gives.
#: Up to there a larger C only scales the logits: validation rests on a plateau that is not the last.
LEARNED = 0.9
#: C of the coarse path that a refit takes up to the chosen one: a cold start at a large C is slow.
STEPS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5)
#: C of a set with one image a class, where there is nothing to choose by.
FALLBACK_C = 1.0


@dataclass(frozen=True)
class Choice:
    """The chosen hyper-parameters, and everything that was tried."""

    best: dict[str, float]
    validation_top1: float | None
    edge: str | None  #: "low" or "high" where the choice lies at an end of the range
    trials: list[dict[str, Any]]


@dataclass(frozen=True)
class Problem:
    """What is to be classified, and how its solver works."""

    design: Design
    labels: np.ndarray  #: (N,) int64
    classes: int
    keep_logits: bool
    stop: StopRequest

    def path(self, places: np.ndarray | None, saved: dict[str, Any] | None) -> RegularizationPath:
        """A path for the images at `places`, or all of them; where one was saved, from where that was."""
        labels = torch.from_numpy(self.labels if places is None else self.labels[places])
        design = self.design if places is None else self.design.subset(places)
        return RegularizationPath(design, labels, self.classes, self.stop, self.keep_logits, saved)


def choose_c(problem: Problem, folds: Sequence[Fold], partial: Partial) -> Choice:
    """The smallest C whose validation accuracy is within half a standard error of the best.

    Args:
        problem: the images.
        folds: what to train and validate on; accuracies are means over them, weighted by their images.
        partial: what an earlier call found, and where this one keeps what it finds.

    Raises:
        Interrupted: if asked to stop; `partial` holds each C that is done.
    """
    if not folds:
        return Choice({"C": FALLBACK_C}, None, None, [])
    saved = partial.state.get("paths", [None] * len(folds))
    paths = [problem.path(fold[0], one) for fold, one in zip(folds, saved, strict=True)]
    validations = [problem.design.subset(fold[1]) for fold in folds]
    trained, images = (sum(len(fold[part]) for fold in folds) for part in (0, 1))
    shares = np.bincount(problem.labels) / len(problem.labels)
    learned = LEARNED * float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
    trials: list[dict[str, Any]] = list(partial.state.get("trials", []))
    for c in GRID[len(trials) :]:
        if _flat(trials, images, learned):
            break
        began = time.monotonic()
        hits, loss, gap = 0, 0.0, 0.0
        for path, validation, fold in zip(paths, validations, folds, strict=True):
            solution = path.solve(c)
            hits += int((validation.predict(solution.weights) == problem.labels[fold[1]]).sum())
            loss += solution.entropy * len(fold[0]) / trained
            gap = max(gap, solution.gap)
        trials.append(
            {
                "C": c,
                "validation_top1": hits / images,
                "train_loss": loss,
                "gap": gap,
                "seconds": round(time.monotonic() - began, 4),
            }
        )
        partial.update(trials=trials, paths=[path.state() for path in paths])
    return _choice(trials, images)


def fit(problem: Problem, c: float, partial: Partial) -> Tensor:
    """(K, r + 1) weights at C = `c` on all images, by a coarse path up to it. Raises Interrupted as `choose_c` does."""
    saved = partial.state.get("refit")
    done, state = saved if saved else (0, None)
    path = problem.path(None, state)
    steps = [step for step in STEPS if step < c]
    for number, step in enumerate(steps[done:], start=done + 1):
        path.solve(step)
        partial.update(refit=(number, path.state()))
    return path.solve(c).weights


def _standard_error(accuracy: float, images: int) -> float:
    return float(np.sqrt(max(accuracy * (1 - accuracy), 0.25 / images) / images))


def _flat(trials: list[dict[str, Any]], images: int, learned: float) -> bool:
    """Whether the path has come to its last plateau; `learned` is the training loss of one that fits its classes."""
    if len(trials) <= PATIENCE or trials[-PATIENCE - 1]["train_loss"] > learned:
        return False
    accuracies = [trial["validation_top1"] for trial in trials]
    before = max(accuracies[:-PATIENCE])
    return bool(max(accuracies[-PATIENCE:]) <= before + 0.25 * _standard_error(before, images))


def _choice(trials: list[dict[str, Any]], images: int) -> Choice:
    best = max(trial["validation_top1"] for trial in trials)
    enough = best - 0.5 * _standard_error(best, images)
    place = next(i for i, trial in enumerate(trials) if trial["validation_top1"] >= enough)
    chosen = trials[place]
    edge = "low" if chosen["C"] == GRID[0] else "high" if chosen["C"] == GRID[-1] else None
    return Choice({"C": chosen["C"]}, chosen["validation_top1"], edge, trials)
