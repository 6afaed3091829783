"""The `exact` probe of a multi-label dataset: one logistic regression per class, with the same C for all classes.

Each class is a problem with two classes, the images that show it and those that do not, for the solver of
trex/probing/solver.py. Images with the label 0 (VOC: only difficult objects) are left out of the problem of their
class, as the official evaluation leaves them out. All classes share the basis and the rotated features.

C is the same for all classes, as in Kornblith et al. (arXiv 1805.08974), SimCLR and BYOL: with a few dozen validation
images per class, the average precision of one class is too noisy to choose a C for it (docs/adr/0023).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trex.errors import UserError
from trex.interruption import StopRequest
from trex.probing import choice
from trex.probing.average_precision import mean_average_precision, ranks, replicates
from trex.probing.choice import GRID
from trex.probing.design import Design
from trex.probing.folds import Fold, multi_label_fold
from trex.probing.kind import Fitted
from trex.probing.memory import PAIRS, is_small
from trex.probing.partial import Partial
from trex.probing.rankings import Rankings
from trex.probing.solution import APPROACH, CONFIRMED, FINAL, FINAL_FLOAT32, SEARCH, SEARCH_LARGE, PathState
from trex.probing.solver import RegularizationPath
from trex.records.probe_result import Search, Trial

if TYPE_CHECKING:
    from trex.probing.dataset import ProbeDataset

#: Resampled sets of validation images, for the standard error of their mean average precision.
VALIDATION_REPLICATES = 200


@dataclass(frozen=True)
class Problem:
    """The images to classify, and the settings of the solver."""

    design: Design  #: in float64 if the problem is small
    labels: np.ndarray  #: (n, K) int8: 1 for images that show a class, -1 for others, 0: left out of this class
    keep_logits: bool  #: whether the solver keeps the logits of all images in memory
    stop: StopRequest

    @classmethod
    def of(cls, data: ProbeDataset) -> Self:
        """The problem of all of trainval."""
        design, small = data.designs[0], is_small(len(data.labels), data.designs[0].width, data.classes)
        if small:
            design = Design.of(design.rows, design.basis, data.classes, in_memory=True, dtype=torch.float64)
        return cls(design, data.labels, data.solver_memory.logits or small, data.stop)

    @property
    def is_small(self) -> bool:
        """Whether everything is computed in float64."""
        return self.design.dtype == torch.float64

    @property
    def classes(self) -> int:
        """The number of classes, K."""
        return int(self.labels.shape[1])

    def path(self, label: int, places: np.ndarray, saved: PathState | None) -> RegularizationPath | None:
        """The path of one class for the images at `places`; None if not both kinds of images are among them.

        A path is created again for each C, from the state of the last one, so that memory holds the features of one
        class at a time: each may have other images.
        """
        known = places[self.labels[places, label] != 0]
        shown = (self.labels[known, label] > 0).astype(np.int64)
        if len(np.unique(shown)) < 2:
            return None
        design = self.design if len(known) == len(self.labels) else self.design.subset(known)
        return RegularizationPath(design, shown, 2, self.stop, self.keep_logits, saved)


@dataclass(frozen=True)
class _Progress:
    """The progress of a probe besides its trials; stored as `Partial.own`."""

    states: tuple[PathState | None, ...] = ()  #: one per class; none before the first C
    errors: tuple[float, ...] = ()  #: one per trial, the standard error of its mean average precision
    fitted: tuple[Tensor, ...] = ()  #: the final weights of the first classes

    @classmethod
    def of(cls, partial: Partial) -> Self:
        """The progress that is stored in `partial`."""
        if partial.own is None:
            return cls()
        own: Any = partial.own
        states = tuple(None if state is None else PathState.of(state) for state in own["states"])
        return cls(states, tuple(own["errors"]), tuple(own["fitted"]))

    def plain(self) -> dict[str, object]:
        """The progress as tensors in lists and dicts, for the file."""
        states = [None if state is None else state.plain() for state in self.states]
        return {"states": states, "errors": list(self.errors), "fitted": list(self.fitted)}


def fit_multi_label(data: ProbeDataset, seed: int, partial: Partial) -> Fitted:
    """Choose C on about a fifth of each class, then fit all of trainval. Seeds that choose the same C share this fit.

    If no validation image shows a class, because each class has a single image, C is fixed as in `exact`.

    Raises:
        UserError: if no test image shows a class.
        Interrupted: if asked to stop; `partial` holds the progress.
    """
    if not (data.test_labels > 0).any():
        raise UserError(f"{data.name}: no test image shows a class, so there is no average precision: check its labels")
    problem, (train, validation) = Problem.of(data), multi_label_fold(data.labels, seed)
    if (data.labels[validation] > 0).any():
        search = choose_c(problem, (train, validation), partial)
    else:
        search = Search({"C": choice.fallback(data.rows)})
        train, validation = np.arange(len(data.labels)), validation[:0]
    c = search.best["C"]
    if c not in data.rankings:
        scores = _scores(data.designs[1], fit(problem, c, partial))
        data.rankings[c] = Rankings(data.test_labels, ranks(scores))
    return Fitted(search, data.rankings[c], len(train), len(validation))


def choose_c(problem: Problem, fold: Fold, partial: Partial) -> Search:
    """Choose the smallest C whose mean average precision on the validation images is within half a standard error of
    the best. It is that over 11 points, which is reported.

    The standard error is that over the validation images (bootstrap). The classes count as fixed: that some are harder
    than others does not make the choice of C uncertain.

    Args:
        problem: the images.
        fold: the images to train on and to validate on.
        partial: the progress of an interrupted call; this call continues it and stores its own progress in it.

    Raises:
        Interrupted: if asked to stop; `partial` holds all finished values of C.
    """
    held, labels = problem.design.subset(fold[1]), problem.labels[fold[1]]
    progress, trials = _Progress.of(partial), list(partial.trials)
    entropy = _entropy(problem.labels[fold[0]])
    for c in GRID[len(trials) :]:
        if _ends(trials, progress.errors, entropy):
            break
        start = time.monotonic()
        found = _solve_all(problem, fold[0], c, progress.states)
        scores = _scores(held, found.weights)
        rank = ranks(scores)
        value = float(mean_average_precision(labels, rank)[0, 0])
        error = float(np.nanstd(replicates(labels, rank, VALIDATION_REPLICATES)[0]))
        seconds = round(time.monotonic() - start, 4)
        trials.append(Trial({"C": c}, value, seconds, found.loss, found.gap, validation_loss=_loss(scores, labels)))
        progress = replace(progress, states=found.states, errors=(*progress.errors, error))
        partial.update(trials=trials, own=progress.plain())
    return choice.search_of(trials, choice.smallest(trials, progress.errors))


def fit(problem: Problem, c: float, partial: Partial) -> Tensor:
    """Fit all images at C = `c`, each class along a coarse path up to it.

    A small problem is solved to FINAL accuracy. The path of a larger one computes in float32, and float64 confirms its
    solution or continues from there.

    Returns:
        (K, r + 1) float64, the weights of the scores: the log-odds of each class. 0 for a class that cannot be fitted.

    Raises:
        Interrupted: if asked to stop; `partial` holds the finished classes.
    """
    progress = _Progress.of(partial)
    for label in range(len(progress.fitted), problem.classes):
        progress = replace(progress, fitted=(*progress.fitted, _final(problem, label, c)))
        partial.update(own=progress.plain())
    return torch.stack(progress.fitted)


def _final(problem: Problem, label: int, c: float) -> Tensor:
    """The final weights of one class, (r + 1,) float64."""
    path = problem.path(label, np.arange(len(problem.labels)), None)
    if path is None:
        return torch.zeros(problem.design.width, dtype=torch.float64)
    for step in path.approach(c):
        path.solve(step, APPROACH)
    solution = path.solve(c, FINAL if problem.is_small else FINAL_FLOAT32)
    if not problem.is_small:
        labels, state = path.labels.cpu().numpy(), path.state().restarted(torch.float64)
        precise = path.design.read_as(torch.float64)
        path = RegularizationPath(precise, labels, 2, problem.stop, keep_logits=False, state=state)
        solution = path.solve(c, CONFIRMED)
    return (solution.weights[1] - solution.weights[0]).cpu()


@dataclass(frozen=True)
class _Solutions:
    """The solutions of all classes at one C."""

    weights: Tensor  #: (K, r + 1), the weights of the scores
    states: tuple[PathState | None, ...]
    loss: float  #: mean over the classes of the mean cross-entropy of the training images, nats
    gap: float  #: the largest


def _solve_all(problem: Problem, places: np.ndarray, c: float, saved: Sequence[PathState | None]) -> _Solutions:
    """Solve all classes for the images at `places`, from the states at the last C; () at the first C."""
    design = problem.design
    weights = torch.zeros(problem.classes, design.width, dtype=design.dtype, device=design.device)
    states: list[PathState | None] = list(saved) or [None] * problem.classes
    losses, gap = [0.0], 0.0
    for label in range(problem.classes):
        path = problem.path(label, places, states[label])
        if path is None:
            continue
        for step in () if saved else path.approach(c):
            path.solve(step, APPROACH)
        solution = path.solve(c, SEARCH if problem.is_small else SEARCH_LARGE)
        weights[label] = solution.weights[1] - solution.weights[0]
        state = path.state()
        states[label] = replace(state, pairs=state.pairs[-PAIRS:])  # so many that memory holds those of all classes
        losses.append(solution.entropy)
        gap = max(gap, solution.gap)
    return _Solutions(weights, tuple(states), sum(losses) / problem.classes, gap)


def _scores(design: Design, weights: Tensor) -> np.ndarray:
    """The scores of the images for each class, (n, K) float."""
    found: np.ndarray = torch.cat(list(design.logits(weights.to(design.device)))).cpu().numpy()
    return found


def _loss(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean cross-entropy over all pairs of an image and a class, without those that are left out, nats."""
    signs = torch.from_numpy(labels).double()
    losses = F.softplus(-signs * torch.from_numpy(scores).double())
    return float((losses * signs.abs()).sum() / signs.abs().sum())


def _entropy(labels: np.ndarray) -> float:
    """The training loss of a model without weights: the mean over the classes of the entropy of their frequencies."""
    shares = (labels > 0).sum(0) / np.maximum((labels != 0).sum(0), 1)
    parts = [-part * np.log(np.where(part > 0, part, 1)) for part in (shares, 1 - shares)]
    return float(np.mean(parts[0] + parts[1]))


def _ends(trials: Sequence[Trial], errors: Sequence[float], entropy: float) -> bool:
    """Whether a larger C than those of `trials` would not be chosen: the rules of `exact`, with these errors."""
    if len(trials) < 2:
        return False
    values = [trial.validation_score for trial in trials]
    best = max(values)
    worse = values[-1] < best - choice.CLEARLY * 2**0.5 * errors[values.index(best)]
    return (worse and choice.is_passed(trials, entropy)) or choice.ends(trials, errors, entropy)
