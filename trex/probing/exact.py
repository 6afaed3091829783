"""The search of the `exact` probes: choose C on validation images along a path of certified optima, then fit again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from trex.interruption import StopRequest
from trex.probing.design import Design
from trex.probing.folds import Fold
from trex.probing.partial import Partial
from trex.probing.solver import PathState, RegularizationPath
from trex.records.probe_result import Search, Trial

#: C from 1e-5 to 1e6, two values per decade.
GRID = tuple(float(f"{10 ** (power / 2):.6g}") for power in range(-10, 13))
#: The path ends when the validation accuracy has gained less than a quarter of a standard error over the last PATIENCE
#: values of C (1.5 decades), and the training loss before them was below LEARNED times the entropy of the class
#: frequencies. With a higher loss the classes are not learned yet: a larger C only scales the logits, and the accuracy
#: may stay constant for a while before it grows.
PATIENCE = 3
LEARNED = 0.9
#: Values of C that the final fit solves on its way to the chosen one: a cold start at a large C is slow.
STEPS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5)
#: C if there are no validation images to choose it with, as in a dataset with one image per class.
FALLBACK_C = 1.0


@dataclass(frozen=True)
class Problem:
    """The images to classify, and the settings of the solver."""

    design: Design
    labels: np.ndarray  #: (N,) int64
    classes: int
    keep_logits: bool  #: whether the solver keeps the logits of all images in memory
    stop: StopRequest

    def path(self, places: np.ndarray | None, saved: PathState | None) -> RegularizationPath:
        """A path for the images at `places` (None: all). If `saved` is given, the path continues from there."""
        labels = torch.from_numpy(self.labels if places is None else self.labels[places])
        design = self.design if places is None else self.design.subset(places)
        return RegularizationPath(design, labels, self.classes, self.stop, self.keep_logits, saved)


@dataclass(frozen=True)
class _Progress:
    """The progress of a search besides its trials; stored as `Partial.own`."""

    paths: tuple[PathState, ...] = ()  #: one per fold; none before the first C
    refit: tuple[int, PathState] | None = None  #: number of STEPS done, and the path

    @classmethod
    def of(cls, partial: Partial) -> Self:
        """The progress that is stored in `partial`."""
        if partial.own is None:
            return cls()
        own: Any = partial.own
        refit = None if own["refit"] is None else (int(own["refit"][0]), PathState.of(own["refit"][1]))
        return cls(tuple(map(PathState.of, own["paths"])), refit)

    def plain(self) -> dict[str, object]:
        """The progress as tensors in lists, tuples and dicts, for the file."""
        refit = None if self.refit is None else (self.refit[0], self.refit[1].plain())
        return {"paths": [path.plain() for path in self.paths], "refit": refit}


def choose_c(problem: Problem, folds: Sequence[Fold], partial: Partial) -> Search:
    """Choose the smallest C whose validation accuracy is within half a standard error of the best.

    Args:
        problem: the images.
        folds: the images to train on and to validate on. Accuracies are means over all validation images of all folds.
            If there are none, C is FALLBACK_C.
        partial: the progress of an interrupted call; this call continues it and stores its own progress in it.

    Raises:
        Interrupted: if asked to stop; `partial` holds all finished values of C.
    """
    trained, images = sum(len(fold[0]) for fold in folds), sum(len(fold[1]) for fold in folds)
    if not images:
        return Search({"C": FALLBACK_C})
    saved = _Progress.of(partial).paths or (None,) * len(folds)
    paths = [problem.path(fold[0], one) for fold, one in zip(folds, saved, strict=True)]
    validations = [problem.design.subset(fold[1]) for fold in folds]
    shares = np.bincount(problem.labels) / len(problem.labels)
    learned = LEARNED * float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
    trials = list(partial.trials)
    for c in GRID[len(trials) :]:
        if _flat(trials, images, learned):
            break
        start = time.monotonic()
        hits, loss, gap = 0, 0.0, 0.0
        for path, validation, fold in zip(paths, validations, folds, strict=True):
            solution = path.solve(c)
            hits += int((validation.predict(solution.weights) == problem.labels[fold[1]]).sum())
            loss += solution.entropy * len(fold[0]) / trained
            gap = max(gap, solution.gap)
        seconds = round(time.monotonic() - start, 4)
        trials.append(Trial({"C": c}, hits / images, seconds, train_loss=loss, gap=gap))
        partial.update(trials=trials, own=_Progress(tuple(path.state() for path in paths)).plain())
    return _search(trials, images)


def fit(problem: Problem, c: float, partial: Partial) -> Tensor:
    """Fit all images at C = `c`, along a coarse path up to it. Returns (K, r + 1) float32 weights.

    Raises:
        Interrupted: if asked to stop; `partial` holds the progress.
    """
    progress = _Progress.of(partial)
    done, state = progress.refit or (0, None)
    path = problem.path(None, state)
    steps = [step for step in STEPS if step < c]
    for number, step in enumerate(steps[done:], start=done + 1):
        path.solve(step)
        partial.update(own=replace(progress, refit=(number, path.state())).plain())
    return path.solve(c).weights


def _standard_error(accuracy: float, images: int) -> float:
    return float(np.sqrt(max(accuracy * (1 - accuracy), 0.25 / images) / images))


def _flat(trials: Sequence[Trial], images: int, learned: float) -> bool:
    """Whether the accuracy no longer grows with C; `learned`: the training loss at which the classes are learned."""
    if len(trials) <= PATIENCE or (trials[-PATIENCE - 1].train_loss or 0.0) > learned:
        return False
    accuracies = [trial.validation_top1 for trial in trials]
    before = max(accuracies[:-PATIENCE])
    return bool(max(accuracies[-PATIENCE:]) <= before + 0.25 * _standard_error(before, images))


def _search(trials: Sequence[Trial], images: int) -> Search:
    best = max(trial.validation_top1 for trial in trials)
    enough = best - 0.5 * _standard_error(best, images)
    chosen = next(trial for trial in trials if trial.validation_top1 >= enough)
    c = chosen.values["C"]
    edge: Literal["low", "high"] | None = "low" if c == GRID[0] else "high" if c == GRID[-1] else None
    return Search({"C": c}, chosen.validation_top1, edge, tuple(trials))
