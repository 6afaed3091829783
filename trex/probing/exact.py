"""The search of the `exact` probes: choose C on validation images along a path of certified optima, then fit again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trex.interruption import StopRequest
from trex.probing import choice
from trex.probing.approach import Approach, Approaches, decades_to
from trex.probing.choice import GRID
from trex.probing.design import Design
from trex.probing.folds import Fold
from trex.probing.memory import is_small
from trex.probing.partial import Partial
from trex.probing.solution import (
    APPROACH,
    CONFIRMED,
    FINAL,
    FINAL_FLOAT32,
    SEARCH,
    SEARCH_LARGE,
    Accuracy,
    PathState,
    strength_of,
)
from trex.probing.solver import RegularizationPath
from trex.records.probe_result import Search, Trial

#: The largest gap that a trial records; float32 cannot certify one with extreme features and C.
UNKNOWN_GAP = 1e9
#: A large problem is approached with one of this many images of each class.
APPROACH_PART = 4


@dataclass(frozen=True)
class Problem:
    """The images to classify, and the settings of the solver."""

    design: Design
    labels: np.ndarray  #: (N,) int64
    classes: int
    keep_logits: bool  #: whether the solver keeps the logits of all images in memory
    stop: StopRequest
    fast: bool = False  #: whether large problems are computed in bfloat16, as far as that is precise enough
    approaches: Approaches = field(default_factory=Approaches)  #: shared by the problems of all seeds

    @property
    def is_small(self) -> bool:
        """Whether everything is computed in float64."""
        return is_small(len(self.labels), self.design.width, self.classes)

    def strength(self, c: float) -> float:
        """λ of all images at C = `c`."""
        return strength_of(c, len(self.labels), len(np.unique(self.labels)), self.design.basis.scale)

    @property
    def search(self) -> Accuracy:
        """The accuracy of the solutions of a search."""
        return SEARCH if self.is_small else SEARCH_LARGE

    def part(self, places: np.ndarray | None) -> Design:
        """The features of the images at `places` (None: all), in memory in float64 if the problem is small."""
        design = self.design if places is None else self.design.subset(places)
        if not self.is_small:
            return design
        return Design.of(design.rows, design.basis, self.classes, in_memory=True, dtype=torch.float64)

    def path(self, places: np.ndarray | None, saved: PathState | None) -> RegularizationPath:
        """A path for the images at `places` (None: all). If `saved` is given, the path continues from there."""
        fast = self.fast and not self.is_small and self.design.in_memory
        if fast:  # bfloat16 sums the gradient of a piece: its errors are small if that is close to the gradient of all
            places = _spread(np.arange(len(self.labels)) if places is None else places)
        labels = self.labels if places is None else self.labels[places]
        keep = self.keep_logits or self.is_small
        return RegularizationPath(self.part(places), labels, self.classes, self.stop, keep, saved, fast)

    def precise_path(self, last: PathState) -> RegularizationPath:
        """A path in float64 for all images, from the last solution of another one. It keeps nothing in memory."""
        design = self.design.read_as(torch.float64)
        state = last.restarted(torch.float64)
        return RegularizationPath(design, self.labels, self.classes, self.stop, keep_logits=False, state=state)


def _spread(places: np.ndarray) -> np.ndarray:
    """Reorder so that each run of images, of any length, is from everywhere; files are often sorted by class.

    The multiples of the golden ratio, modulo 1, fill the interval evenly. Their ranks are the new order.
    """
    return places[np.argsort(np.argsort(np.arange(len(places)) * ((5**0.5 - 1) / 2) % 1))]


@dataclass(frozen=True)
class _Progress:
    """The progress of a search besides its trials; stored as `Partial.own`."""

    start: int = 0  #: the place in GRID of the first trial
    paths: tuple[PathState, ...] = ()  #: one per fold; none before the first C
    best: Tensor | None = None  #: (n,) bool, which validation images the best trial classifies correctly
    ended: bool = False  #: whether the last trial was clearly worse than the best
    refit: Approach | None = None  #: of the final fit

    @classmethod
    def of(cls, partial: Partial) -> Self:
        """The progress that is stored in `partial`."""
        if partial.own is None:
            return cls()
        own: Any = partial.own
        refit = None if own["refit"] is None else Approach.of(own["refit"])
        return cls(int(own["start"]), tuple(map(PathState.of, own["paths"])), own["best"], bool(own["ended"]), refit)

    def plain(self) -> dict[str, object]:
        """The progress as tensors in lists, tuples and dicts, for the file."""
        refit = None if self.refit is None else self.refit.plain()
        paths = [path.plain() for path in self.paths]
        return {"start": self.start, "paths": paths, "best": self.best, "ended": self.ended, "refit": refit}


def choose_c(problem: Problem, folds: Sequence[Fold], partial: Partial, few: bool = False) -> Search:
    """Choose the smallest C whose validation accuracy is within half a standard error of the best.

    Args:
        problem: the images.
        folds: the images to train on and to validate on. Accuracies and losses are means over all validation images of
            all folds. If there are none, C is `choice.FALLBACK` divided by the variance of the features.
        few: whether there are so few images that their accuracies say little: then the C with the smallest validation
            loss is chosen instead (tools/study_few_shot.py).
        partial: the progress of an interrupted call; this call continues it and stores its own progress in it.

    Raises:
        Interrupted: if asked to stop; `partial` holds all finished values of C.
    """
    images = sum(len(fold[1]) for fold in folds)
    if not images:
        return Search({"C": choice.fallback(problem.design.rows)})
    if partial.own is None and not few and not problem.is_small:
        partial.update(own=_begin(problem, folds).plain())
    progress = _Progress.of(partial)
    saved = progress.paths or (None,) * len(folds)
    parts = [_Fold.of(problem, fold, one) for fold, one in zip(folds, saved, strict=True)]
    progress = _ascend(problem, parts, progress, partial, few)
    while True:
        trials = list(partial.trials)
        chosen = choice.best_loss(trials) if few else choice.smallest(trials, choice.standard_errors(trials, images))
        if progress.start == 0 or chosen is not trials[0]:
            return choice.search_of(trials, chosen)
        start = progress.start - 1  # a smaller C may be chosen
        trial, _ = _trial(parts, GRID[start], problem.search, approach=False)
        progress = replace(progress, start=start, paths=tuple(part.path.state() for part in parts))
        partial.update(trials=[trial, *trials], own=progress.plain())


def _begin(problem: Problem, folds: Sequence[Fold]) -> _Progress:
    """Find the first C to solve for with all images, by `choice.begins` with a part of them and the same λ.
    If there is none, the search begins at the smallest C."""
    paths, start = [], len(GRID)
    for training, _ in folds:
        places = training[_part_of_each_class(problem.labels[training], APPROACH_PART)]
        path, more = problem.path(places, None), len(training) / len(places)
        before = prior = choice.entropy(problem.labels[places])
        for place in range(0, len(GRID), 2):
            loss = path.solve(GRID[place] * more, APPROACH).entropy
            if choice.begins(loss, before, prior):
                start = min(start, place)
                break
            before = loss
        else:
            return _Progress()
        paths.append(path.state().moved())
    return _Progress(start, tuple(paths))


def _ascend(
    problem: Problem, parts: Sequence[_Fold], progress: _Progress, partial: Partial, few: bool
) -> _Progress:  # fmt: skip
    """Add the trials of one C after another to `partial`, until a larger one would not be chosen."""
    trials, best, ended = list(partial.trials), progress.best, progress.ended
    prior, images = choice.entropy(problem.labels), sum(len(part.labels) for part in parts)
    for c in GRID[progress.start + len(trials) :]:
        errors = choice.standard_errors(trials, images)
        if ended or (choice.ends_few(trials, prior) if few else choice.ends(trials, errors, prior)):
            break
        before = trials[:]
        # Behind the best C, a rough solution is often clearly worse already.
        rough = (APPROACH,) if choice.has_learned(before, prior) and not few else ()
        for accuracy in (*rough, problem.search):
            trial, hits = _trial(parts, c, accuracy, approach=not before and not progress.paths)
            trials = [*before, trial]
            worse = best is not None and choice.is_clearly_worse(hits, best.numpy())
            if ended := worse and not few and choice.is_passed(trials, prior):
                break
        if trial.validation_score > max((one.validation_score for one in before), default=-1.0):
            best = torch.from_numpy(hits)
        progress = _Progress(progress.start, tuple(part.path.state() for part in parts), best, ended)
        partial.update(trials=trials, own=progress.plain())
    return progress


def fit(problem: Problem, c: float, partial: Partial) -> Tensor:
    """Fit all images at C = `c`, along a path of decades up to it. Returns (K, r + 1) weights.

    A small problem is solved to FINAL accuracy. The path of a larger one begins with a part of the images and continues
    with all of them where the part has learned the classes: after that, the solution of a part is a poor start. It ends
    in float32; then float64 confirms its last solution or continues from there.

    Raises:
        Interrupted: if asked to stop; `partial` holds the progress.
    """
    progress = _Progress.of(partial)
    decades = decades_to(c, problem.strength(1.0))
    steps = [(step, APPROACH) for step in decades]
    steps += [(c, FINAL)] if problem.is_small else [(c, SEARCH_LARGE), (c, FINAL_FLOAT32)]
    refit = progress.refit or problem.approaches.nearest(decades)
    path: RegularizationPath | None = None
    while refit.done < len(steps):
        (step, accuracy), is_last = steps[refit.done], refit.done >= len(decades)
        if not refit.whole and not problem.is_small and not is_last:
            refit = _approach_with_part(problem, decades, refit)
        else:
            state = refit.state if refit.whole or refit.state is None else refit.state.moved()
            path = path or problem.path(None, state)
            (path.solve_precisely if accuracy is FINAL_FLOAT32 else path.solve)(step, accuracy)
            refit = Approach(refit.done + 1, path.state(), whole=True)
            if not is_last:
                problem.approaches.keep(step, refit)
        partial.update(own=replace(progress, refit=refit).plain())
    assert refit.state is not None
    if problem.is_small:
        return (path or problem.path(None, refit.state)).all_weights()
    del path
    return problem.precise_path(refit.state).solve(c, CONFIRMED).weights


def _approach_with_part(problem: Problem, decades: Sequence[float], refit: Approach) -> Approach:
    """Solve for the decades with a part of the images and the same λ, until it has learned the classes or all are done.
    The decade at which it has is then solved again with all images."""
    places = _part_of_each_class(problem.labels, APPROACH_PART)
    more = len(problem.labels) / len(places)  # for the same λ = 1 / (C · N)
    path, prior = problem.path(places, refit.state), choice.entropy(problem.labels[places])
    for number in range(refit.done, len(decades)):
        if path.solve(decades[number] * more, APPROACH).entropy <= choice.LEARNED * prior:
            return Approach(number, path.state().moved(), whole=True)
    return Approach(len(decades), path.state().moved(), whole=True)


def _part_of_each_class(labels: np.ndarray, part: int) -> np.ndarray:
    """Sorted indices of one of `part` images of each class, rounded up."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[rank % part == 0])


@dataclass(frozen=True)
class _Fold:
    """The path of one fold and its validation images."""

    path: RegularizationPath
    images: int  #: that it trains on
    design: Design  #: of the validation images
    labels: Tensor  #: (n,) int64, of the validation images

    @classmethod
    def of(cls, problem: Problem, fold: Fold, saved: PathState | None) -> Self:
        """The fold, whose path continues from `saved`."""
        labels = torch.from_numpy(problem.labels[fold[1]]).to(problem.design.device)
        return cls(problem.path(fold[0], saved), len(fold[0]), problem.part(fold[1]), labels)

    def measure(self, weights: Tensor) -> tuple[np.ndarray, float]:
        """Which validation images are classified correctly, (n,) bool, and the sum of their cross-entropies."""
        hits, loss = [np.zeros(0, bool)], 0.0
        targets = torch.split(self.labels, self.design.piece)
        for logits, labels in zip(self.design.logits(weights), targets, strict=True):
            hits.append((logits.argmax(1) == labels).cpu().numpy())
            loss += float(F.cross_entropy(logits.double(), labels, reduction="sum"))
        return np.concatenate(hits), loss


def _trial(folds: Sequence[_Fold], c: float, accuracy: Accuracy, approach: bool) -> tuple[Trial, np.ndarray]:
    """Solve for C = `c` on all folds. Returns the trial, and which of all validation images are classified correctly.

    Args:
        folds: the folds.
        c: the value of C.
        accuracy: of the solutions.
        approach: whether to solve for smaller values of C before it.
    """
    start = time.monotonic()
    found, loss, lost, gap = [], 0.0, 0.0, 0.0
    trained = sum(fold.images for fold in folds)
    for fold in folds:
        for step in fold.path.approach(c) if approach else ():
            fold.path.solve(step, APPROACH)
        solution = fold.path.solve(c, accuracy)
        hits, missed = fold.measure(solution.weights)
        found.append(hits)
        lost += missed
        loss += solution.entropy * fold.images / trained
        gap = max(gap, min(solution.gap, UNKNOWN_GAP))
    correct = np.concatenate(found)
    seconds = round(time.monotonic() - start, 4)
    trial = Trial({"C": c}, float(correct.mean()), seconds, loss, gap, validation_loss=lost / len(correct))
    return trial, correct
