"""The `published` protocol, so that numbers compare with the paper's: scikit-learn's L-BFGS for the small sets, SGD for
ImageNet-1K, CoG and iNaturalist, each with 30 trials of Optuna's TPE (arXiv 2206.15369, appendix).
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trex.interruption import StopRequest
from trex.probing.exact import Choice
from trex.probing.split import Fold

TRIALS = 30
C_RANGE = (1e-5, 1e6)
LR_RANGE = (1e-1, 1e2)
DECAY_RANGE = (1e-12, 1e-4)
EPOCHS = 100
BATCH = 1024

Fit = Callable[[np.ndarray, np.ndarray, dict[str, float]], Callable[[np.ndarray], np.ndarray]]


def uses_sgd(dataset: str) -> bool:
    """Whether the paper fits this set by SGD: ImageNet-1K, the CoG levels, iNaturalist."""
    return dataset == "in1k" or dataset.startswith(("cog_", "inat"))


def choose(
    fit: Fit, ranges: dict[str, tuple[float, float]], features: np.ndarray, labels: np.ndarray, fold: Fold, seed: int,
    stop: StopRequest, trials: int = TRIALS,
) -> Choice:  # fmt: skip
    """TPE over log-scaled `ranges`, by accuracy on the validation part of `fold`."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    train, validation = fold
    made: list[dict[str, Any]] = []

    def accuracy(trial: optuna.Trial) -> float:
        stop.check()
        began = time.monotonic()
        values = {key: trial.suggest_float(key, low, high, log=True) for key, (low, high) in ranges.items()}
        predicted = fit(features[train], labels[train], values)(features[validation])
        top1 = float((predicted == labels[validation]).mean())
        made.append({**values, "validation_top1": top1, "seconds": round(time.monotonic() - began, 4)})
        return top1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=len(ranges) > 1)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(accuracy, n_trials=trials)
    best = {key: float(study.best_params[key]) for key in ranges}
    return Choice(best, float(study.best_value), _edge(best, ranges), made)


def fit_lbfgs(features: np.ndarray, labels: np.ndarray, values: dict[str, float]) -> Callable[[np.ndarray], np.ndarray]:
    """scikit-learn's multinomial logistic regression, L2, L-BFGS, its default tolerance: at large C it stops early."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=values["C"], max_iter=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels)
    return lambda images: np.asarray(model.predict(images))


def sgd_fit(classes: int, seed: int, stop: StopRequest) -> Fit:
    """A fit function for `choose`: one linear layer by SGD on L2-normalised features."""

    def fit(features: np.ndarray, labels: np.ndarray, values: dict[str, float]) -> Callable[[np.ndarray], np.ndarray]:
        weight, bias = _sgd(features, labels, values, classes, seed, stop)
        return lambda images: (_normalised(images) @ weight.T + bias).argmax(1).numpy()

    return fit


def _sgd(
    features: np.ndarray, labels: np.ndarray, values: dict[str, float], classes: int, seed: int, stop: StopRequest
) -> tuple[Tensor, Tensor]:
    """SGD with momentum .9, weight decay on weight and bias; after each epoch e the rate becomes
    lr/2 · (1 + cos(π e/100)), so the first two epochs run at lr."""
    inputs, targets = _normalised(features), torch.from_numpy(np.ascontiguousarray(labels))
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(inputs.shape[1])
    weight = torch.empty(classes, inputs.shape[1]).uniform_(-bound, bound, generator=generator).requires_grad_()
    bias = torch.empty(classes).uniform_(-bound, bound, generator=generator).requires_grad_()
    optimiser = torch.optim.SGD([weight, bias], lr=values["lr"], momentum=0.9, weight_decay=values["weight_decay"])
    for epoch in range(EPOCHS):
        stop.check()
        for batch in torch.split(torch.randperm(len(inputs), generator=generator), BATCH):
            optimiser.zero_grad()
            loss = F.cross_entropy(inputs[batch] @ weight.T + bias, targets[batch])
            torch.autograd.backward(loss)
            optimiser.step()
        optimiser.param_groups[0]["lr"] = values["lr"] / 2 * (1 + math.cos(math.pi * epoch / EPOCHS))
    return weight.detach(), bias.detach()


def _normalised(features: np.ndarray) -> Tensor:
    return F.normalize(torch.from_numpy(np.array(features, dtype=np.float32)), dim=1)


def _edge(best: dict[str, float], ranges: dict[str, tuple[float, float]]) -> str | None:
    """Whether a chosen value lies in the outer half decade of its range."""
    for key, (low, high) in ranges.items():
        if best[key] < low * math.sqrt(10):
            return "low"
        if best[key] > high / math.sqrt(10):
            return "high"
    return None
