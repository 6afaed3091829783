"""The search of the `published` probes, for numbers that are comparable with the paper's (arXiv 2206.15369, appendix).

30 trials of Optuna's TPE, with SGD for ImageNet-1K, CoG and iNaturalist, and scikit-learn's L-BFGS for other datasets.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trex.interruption import StopRequest
from trex.probing.folds import Fold
from trex.probing.memory import piece_rows
from trex.probing.partial import Partial
from trex.probing.rows import Rows
from trex.records.probe_result import Search, Trial

TRIALS = 30
C_RANGE = (1e-5, 1e6)
LR_RANGE = (1e-1, 1e2)
DECAY_RANGE = (1e-12, 1e-4)
EPOCHS = 100
BATCH = 1024


class Classifier(Protocol):
    """A fitted classifier."""

    def __call__(self, images: Rows) -> np.ndarray:
        """The class with the highest logit for each image, (n,) int64."""

    def logits(self, images: Rows, classes: int) -> Iterator[Tensor]:
        """The logits of the images in order, (m, `classes`) pieces; -inf for a class that it does not know."""


Fit = Callable[[Rows, np.ndarray, dict[str, float]], Classifier]


def choose(
    fit: Fit, ranges: dict[str, tuple[float, float]], rows: Rows, labels: np.ndarray, fold: Fold, seed: int,
    stop: StopRequest, partial: Partial, trials: int = TRIALS,
) -> Search:  # fmt: skip
    """Search hyper-parameters with Optuna's TPE for the highest accuracy on the validation images of `fold`.

    If there are no validation images, there is no search: each value is the middle of its range on the log scale.

    An interrupted search continues exactly as it would have: the sampler depends only on its seed and the accuracies
    so far, so the finished trials are replayed.

    Args:
        fit: fits a classifier with given hyper-parameters and returns its prediction function.
        ranges: bounds of each hyper-parameter, searched on the log scale.
        rows: features of all images of `fold`.
        labels: (n,) int64, their labels.
        fold: the images to train on and to validate on.
        seed: seed of the sampler.
        stop: checked before each trial.
        partial: the progress of an interrupted call; this call continues it and stores its own progress in it.
        trials: number of trials.

    Raises:
        Interrupted: if asked to stop; `partial` holds all finished trials.
    """
    import optuna

    train, validation = fold
    if not len(validation):
        return Search({key: math.sqrt(low * high) for key, (low, high) in ranges.items()})
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    done = partial.trials
    made: list[Trial] = []

    def accuracy(trial: optuna.Trial) -> float:
        values = {key: trial.suggest_float(key, low, high, log=True) for key, (low, high) in ranges.items()}
        if trial.number < len(done):
            made.append(done[trial.number])
            return done[trial.number].validation_score
        stop.check()
        start = time.monotonic()
        predicted = fit(rows.subset(train), labels[train], values)(rows.subset(validation))
        top1 = float((predicted == labels[validation]).mean())
        made.append(Trial(values, top1, round(time.monotonic() - start, 4)))
        partial.update(trials=made)
        return top1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=len(ranges) > 1)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(accuracy, n_trials=trials)
    best = {key: float(study.best_params[key]) for key in ranges}
    return Search(best, float(study.best_value), _edge(best, ranges), tuple(made))


@dataclass(frozen=True)
class _OfScikitLearn:
    """A classifier of scikit-learn."""

    model: Any  #: a fitted LogisticRegression

    def __call__(self, images: Rows) -> np.ndarray:
        return np.asarray(self.model.predict(images.take(slice(None)).numpy()))

    def logits(self, images: Rows, classes: int) -> Iterator[Tensor]:
        known = torch.from_numpy(self.model.classes_)
        for piece in images.pieces(piece_rows(images.dim, classes)):
            found = torch.from_numpy(self.model.decision_function(piece.numpy()))
            if found.ndim == 1:  # two classes: the difference of their logits
                found = torch.stack([torch.zeros_like(found), found], dim=1)
            logits = torch.full((len(found), classes), -torch.inf, dtype=found.dtype)
            logits[:, known] = found
            yield logits


@dataclass(frozen=True)
class _Constant:
    """Always the same class. scikit-learn refuses to fit images of one class."""

    label: int

    def __call__(self, images: Rows) -> np.ndarray:
        return np.full(len(images), self.label)

    def logits(self, images: Rows, classes: int) -> Iterator[Tensor]:
        logits = torch.full((len(images), classes), -torch.inf)
        logits[:, self.label] = 0
        yield logits


@dataclass(frozen=True)
class _Linear:
    """A linear layer."""

    weight: Tensor  #: (K, D)
    bias: Tensor  #: (K,)

    def __call__(self, images: Rows) -> np.ndarray:
        return torch.cat([piece.argmax(1) for piece in self.logits(images, len(self.bias))]).numpy()

    def logits(self, images: Rows, classes: int) -> Iterator[Tensor]:
        for piece in images.pieces(piece_rows(images.dim, classes)):
            yield torch.addmm(self.bias, piece, self.weight.T)


def fit_lbfgs(rows: Rows, labels: np.ndarray, values: dict[str, float]) -> Classifier:
    """Fit scikit-learn's multinomial logistic regression: L2, L-BFGS, default tolerance. At large C it stops early."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if (labels == labels[0]).all():
        return _Constant(int(labels[0]))
    model = LogisticRegression(C=values["C"], max_iter=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows.take(slice(None)).numpy(), labels)
    return _OfScikitLearn(model)


def sgd_fit(classes: int, seed: int, stop: StopRequest) -> Fit:
    """A function for `choose` that fits one linear layer with SGD. Raises Interrupted if asked to stop."""

    def fit(rows: Rows, labels: np.ndarray, values: dict[str, float]) -> Classifier:
        return _Linear(*_sgd(rows, labels, values, classes, seed, stop))

    return fit


def _sgd(
    rows: Rows, labels: np.ndarray, values: dict[str, float], classes: int, seed: int, stop: StopRequest
) -> tuple[Tensor, Tensor]:
    """SGD with momentum .9, and weight decay on weight and bias. After epoch e the learning rate is set to
    lr/2 · (1 + cos(π e/100)), so the first two epochs run at lr. Each batch is read from the file."""
    targets = torch.from_numpy(np.ascontiguousarray(labels))
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(rows.dim)
    weight = torch.empty(classes, rows.dim).uniform_(-bound, bound, generator=generator).requires_grad_()
    bias = torch.empty(classes).uniform_(-bound, bound, generator=generator).requires_grad_()
    optimizer = torch.optim.SGD([weight, bias], lr=values["lr"], momentum=0.9, weight_decay=values["weight_decay"])
    for epoch in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(rows), generator=generator), BATCH):
            stop.check()
            optimizer.zero_grad()
            inputs = rows.take(batch.numpy())
            loss = F.cross_entropy(torch.addmm(bias, inputs, weight.T), targets[batch])
            torch.autograd.backward(loss)
            optimizer.step()
        optimizer.param_groups[0]["lr"] = values["lr"] / 2 * (1 + math.cos(math.pi * epoch / EPOCHS))
    return weight.detach(), bias.detach()


def _edge(best: dict[str, float], ranges: dict[str, tuple[float, float]]) -> Literal["low", "high"] | None:
    """Which end of its range a chosen value is at: within half a decade of it. None if no value is."""
    for key, (low, high) in ranges.items():
        if best[key] < low * math.sqrt(10):
            return "low"
        if best[key] > high / math.sqrt(10):
            return "high"
    return None
