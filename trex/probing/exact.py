"""The search of the `exact` probes: choose C on validation images along a path of certified optima, then fit again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trex.interruption import StopRequest
from trex.probing.design import Design
from trex.probing.folds import Fold
from trex.probing.memory import is_small, piece_rows
from trex.probing.partial import Partial
from trex.probing.rows import Rows
from trex.probing.solution import APPROACH, CONFIRMED, FINAL, FINAL_FLOAT32, PathState, Solution
from trex.probing.solver import RegularizationPath
from trex.records.probe_result import Search, Trial

#: C from 1e-5 to 1e6, two values per decade.
GRID = tuple(float(f"{10 ** (power / 2):.6g}") for power in range(-10, 13))
#: The path ends if the validation accuracy has gained less than a quarter of a standard error over the last PATIENCE
#: values of C (1.5 decades), and the classes are learned (`_ends`).
PATIENCE = 3
#: It ends at once if the accuracy is this number of standard errors of a difference below the best. With many
#: validation images, this saves the values of C that take most of the time.
CLEARLY = 4.0
#: The training loss, as a share of that of the class frequencies, below which nothing is left to learn.
SEPARATED = 0.01
#: The training loss, as such a share, below which a growing validation loss means that the model learns the training
#: images by heart. With a higher loss, it may still be learning what has the largest variance, not what tells classes.
LEARNED = 0.5
#: The validation loss has grown if it is this many times the smallest.
GROWN = 1.05
#: The largest gap that a trial records; float32 cannot certify one with extreme features and C.
UNKNOWN_GAP = 1e9
#: C times the variance of the features, if there are no validation images, as in a dataset with one image per class
#: (tools/study_few_shot.py).
FALLBACK = 10.0


@dataclass(frozen=True)
class Problem:
    """The images to classify, and the settings of the solver."""

    design: Design
    labels: np.ndarray  #: (N,) int64
    classes: int
    keep_logits: bool  #: whether the solver keeps the logits of all images in memory
    stop: StopRequest

    @property
    def is_small(self) -> bool:
        """Whether everything is computed in float64."""
        return is_small(len(self.labels), self.design.width, self.classes)

    def part(self, places: np.ndarray | None) -> Design:
        """The features of the images at `places` (None: all), in memory in float64 if the problem is small."""
        design = self.design if places is None else self.design.subset(places)
        if not self.is_small:
            return design
        return Design.of(design.rows, design.basis, self.classes, in_memory=True, dtype=torch.float64)

    def path(self, places: np.ndarray | None, saved: PathState | None) -> RegularizationPath:
        """A path for the images at `places` (None: all). If `saved` is given, the path continues from there."""
        labels = self.labels if places is None else self.labels[places]
        keep = self.keep_logits or self.is_small
        return RegularizationPath(self.part(places), labels, self.classes, self.stop, keep, saved)

    def precise_path(self, last: PathState) -> RegularizationPath:
        """A path in float64 for all images, from the last solution of another one. It keeps nothing in memory."""
        design = self.design.read_as(torch.float64)
        state = last.restarted(torch.float64)
        return RegularizationPath(design, self.labels, self.classes, self.stop, keep_logits=False, state=state)


@dataclass(frozen=True)
class _Progress:
    """The progress of a search besides its trials; stored as `Partial.own`."""

    paths: tuple[PathState, ...] = ()  #: one per fold; none before the first C
    refit: tuple[int, PathState] | None = None  #: number of values of C that the final fit has solved, and its path

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


def choose_c(problem: Problem, folds: Sequence[Fold], partial: Partial, few: bool = False) -> Search:
    """Choose the smallest C whose validation accuracy is within half a standard error of the best.

    Args:
        problem: the images.
        folds: the images to train on and to validate on. Accuracies and losses are means over all validation images of
            all folds. If there are none, C is FALLBACK divided by the variance of the features.
        few: whether there are so few images that their accuracies say little: then the C with the smallest validation
            loss is chosen instead (tools/study_few_shot.py).
        partial: the progress of an interrupted call; this call continues it and stores its own progress in it.

    Raises:
        Interrupted: if asked to stop; `partial` holds all finished values of C.
    """
    trained, images = sum(len(fold[0]) for fold in folds), sum(len(fold[1]) for fold in folds)
    if not images:
        return Search({"C": _fallback(problem.design.rows)})
    saved = _Progress.of(partial).paths or (None,) * len(folds)
    paths = [problem.path(fold[0], one) for fold, one in zip(folds, saved, strict=True)]
    validations = [_Validation(problem.part(fold[1]), torch.from_numpy(problem.labels[fold[1]])) for fold in folds]
    trials = list(partial.trials)
    entropy = _entropy(problem.labels)
    for c in GRID[len(trials) :]:
        if _ends_few(trials, entropy) if few else _ends(trials, images, entropy):
            break
        start = time.monotonic()
        hits, loss, lost, gap = 0, 0.0, 0.0, 0.0
        for path, validation, fold in zip(paths, validations, folds, strict=True):
            for step in path.approach(c) if not trials else ():
                path.solve(step, APPROACH)
            solution = path.solve(c)
            correct, missed = validation.measure(solution.weights)
            hits, lost = hits + correct, lost + missed
            loss += solution.entropy * len(fold[0]) / trained
            gap = max(gap, min(solution.gap, UNKNOWN_GAP))
        seconds = round(time.monotonic() - start, 4)
        trials.append(Trial({"C": c}, hits / images, seconds, loss, gap, validation_loss=lost / images))
        partial.update(trials=trials, own=_Progress(tuple(path.state() for path in paths)).plain())
    return _search(trials, _best_loss(trials) if few else _smallest(trials, images))


def fit(problem: Problem, c: float, partial: Partial) -> Tensor:
    """Fit all images at C = `c`, along a coarse path up to it. Returns (K, r + 1) weights.

    A small problem is solved to FINAL accuracy. The path of a larger one computes in float32, and float64 confirms its
    last solution or continues from there.

    Raises:
        Interrupted: if asked to stop; `partial` holds the progress.
    """
    progress = _Progress.of(partial)
    done, state = progress.refit or (0, None)
    path = problem.path(None, state)
    steps = [(step, APPROACH) for step in path.approach(c)] + [(c, FINAL if problem.is_small else FINAL_FLOAT32)]
    solution: Solution | None = None
    for number, (step, accuracy) in enumerate(steps[done:], start=done + 1):
        solution = path.solve(step, accuracy)
        partial.update(own=replace(progress, refit=(number, path.state())).plain())
    if solution is not None and problem.is_small:
        return solution.weights
    return problem.precise_path(path.state()).solve(c, CONFIRMED).weights


@dataclass(frozen=True)
class _Validation:
    """The images that validate one fold."""

    design: Design
    labels: Tensor  #: (n,) int64

    def measure(self, weights: Tensor) -> tuple[int, float]:
        """How many images are classified correctly, and the sum of their cross-entropies."""
        hits, loss = 0, 0.0
        for logits, labels in zip(
            self.design.logits(weights), torch.split(self.labels, self.design.piece), strict=True
        ):
            hits += int((logits.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(logits.double(), labels, reduction="sum"))
        return hits, loss


def _entropy(labels: np.ndarray) -> float:
    """The entropy of the class frequencies, nats: the training loss of a model without weights."""
    shares = np.bincount(labels) / len(labels)
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def _standard_error(accuracy: float, images: int) -> float:
    return float(np.sqrt(max(accuracy * (1 - accuracy), 0.25 / images) / images))


def _ends(trials: Sequence[Trial], images: int, entropy: float) -> bool:
    """Whether a larger C than those of `trials` would not be chosen; `entropy` is that of the class frequencies."""
    if len(trials) < 2:
        return False
    best, last = max(trial.validation_top1 for trial in trials), trials[-1]
    below = CLEARLY * 2**0.5 * _standard_error(best, images)
    if last.validation_top1 < best - below and _learns_by_heart(trials[-2:], trials, entropy):
        return True
    if len(trials) <= PATIENCE:
        return False
    before = max(trial.validation_top1 for trial in trials[:-PATIENCE])
    after = max(trial.validation_top1 for trial in trials[-PATIENCE:])
    if after > before + 0.25 * _standard_error(before, images):
        return False
    recent = trials[-PATIENCE - 1 :]
    return (recent[0].train_loss or 0.0) <= SEPARATED * entropy or _learns_by_heart(recent, trials, entropy)


def _learns_by_heart(recent: Sequence[Trial], trials: Sequence[Trial], entropy: float) -> bool:
    """Whether the classes were learned before the `recent` trials, or the training loss can no longer decrease, and the
    validation loss has grown since. With a small C, neither loss changes and the accuracy may stay constant."""
    then, now = recent[0].train_loss or 0.0, recent[-1].train_loss or 0.0
    learned = then <= LEARNED * entropy or then - now <= SEPARATED * (entropy - now)
    losses = [trial.validation_loss or 0.0 for trial in trials]
    return learned and min(losses[len(losses) - len(recent) + 1 :]) >= GROWN * min(losses)


def _ends_few(trials: Sequence[Trial], entropy: float) -> bool:
    """Whether a larger C would not be chosen with few images: the smallest validation loss is PATIENCE values ago, and
    the classes were learned by then, or the images were separated by then, so that a larger C only scales the logits.
    """
    if len(trials) <= PATIENCE:
        return False
    then = trials[-PATIENCE - 1].train_loss or 0.0
    grows = _best_loss(trials) not in trials[-PATIENCE:]
    return then <= SEPARATED * entropy or (then <= LEARNED * entropy and grows)


def _best_loss(trials: Sequence[Trial]) -> Trial:
    """The trial with the smallest validation loss; of equal ones that with the smallest C."""
    return min(trials, key=lambda trial: trial.validation_loss or 0.0)


def _smallest(trials: Sequence[Trial], images: int) -> Trial:
    """The trial with the smallest C whose accuracy is within half a standard error of the best."""
    best = max(trial.validation_top1 for trial in trials)
    enough = best - 0.5 * _standard_error(best, images)
    return next(trial for trial in trials if trial.validation_top1 >= enough)


def _fallback(rows: Rows) -> float:
    """FALLBACK divided by the mean squared distance of the features from their mean; FALLBACK if they are all equal."""
    size = piece_rows(rows.dim, 1)
    mean = sum((part.double().sum(0) for part in rows.pieces(size)), torch.zeros(rows.dim, dtype=torch.float64))
    mean = mean / len(rows)
    variance = sum(float((part.double() - mean).square().sum()) for part in rows.pieces(size)) / len(rows)
    return float(f"{FALLBACK / variance:.6g}") if variance > 0 else FALLBACK


def _search(trials: Sequence[Trial], chosen: Trial) -> Search:
    c = chosen.values["C"]
    edge: Literal["low", "high"] | None = "low" if c == GRID[0] else "high" if c == GRID[-1] else None
    return Search({"C": c}, chosen.validation_top1, edge, tuple(trials))
