"""Which C a search chooses, and where its path begins and ends: rules on the losses and scores alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from trex.probing.memory import piece_rows
from trex.probing.rows import Rows
from trex.records.probe_result import Search, Trial

#: C from 1e-5 to 1e6, two values per decade.
GRID = tuple(float(f"{10 ** (power / 2):.6g}") for power in range(-10, 13))
#: The path ends if the validation score has gained less than a quarter of a standard error over the last PATIENCE
#: values of C (1.5 decades), and the classes are learned (`ends`).
PATIENCE = 3
#: It ends at once if a C is clearly worse than the best: the difference is this many standard errors. For accuracies it
#: is (b - c) / √(b + c), with the numbers b and c of validation images that only one of the two classifies correctly
#: (McNemar's test). With many validation images, this saves the values of C that take most of the time.
CLEARLY = 3.0
#: The training loss, as a share of that of the class frequencies, below which nothing is left to learn.
SEPARATED = 0.01
#: The training loss, as such a share, below which a growing validation loss means that the model learns the training
#: images by heart. With a higher loss, it may still be learning what has the largest variance, not what tells classes.
LEARNED = 0.5
#: The validation loss has grown if it is this many times the smallest.
GROWN = 1.05
#: C times the variance of the features, if there are no validation images, as in a dataset with one image per class
#: (tools/study_few_shot.py).
FALLBACK = 10.0


def entropy(labels: np.ndarray) -> float:
    """The entropy of the class frequencies, nats: the training loss of a model without weights."""
    shares = np.bincount(labels) / len(labels)
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def standard_errors(trials: Sequence[Trial], images: int) -> list[float]:
    """The standard error of the accuracy of each trial, on this number of images."""
    scores = np.array([trial.validation_score for trial in trials])
    found: list[float] = np.sqrt(np.maximum(scores * (1 - scores), 0.25 / images) / images).tolist()
    return found


def begins(loss: float, before: float, prior: float) -> bool:
    """Whether a search begins at a C, judged by the training losses of a part of the images: the classes are learned,
    or a larger C learns no more.

    Args:
        loss: at this C, nats.
        before: at a tenth of it.
        prior: `entropy` of that part.
    """
    gain = prior - loss
    return loss <= LEARNED * prior or (gain > SEPARATED * prior and before - loss <= SEPARATED * gain)


def has_learned(trials: Sequence[Trial], prior: float) -> bool:
    """Whether the classes are learned at the last of the trials; `prior` is `entropy`."""
    return bool(trials) and (trials[-1].train_loss or 0.0) <= LEARNED * prior


def is_clearly_worse(hits: np.ndarray, best: np.ndarray) -> bool:
    """Whether one C is clearly worse than another.

    Args:
        hits: (n,) bool, which validation images the one classifies correctly.
        best: (n,) bool, the same for the other.
    """
    lost, won = int((best & ~hits).sum()), int((hits & ~best).sum())
    return lost > won and lost - won >= CLEARLY * (lost + won) ** 0.5


def is_passed(trials: Sequence[Trial], prior: float) -> bool:
    """Whether the search ends if the last trial is clearly worse than the best one: the classes were learned before it,
    and the validation loss no longer falls by 5 %, which would mean that the model still learns."""
    if not has_learned(trials[:-1], prior):
        return False
    last, before = (trial.validation_loss or 0.0 for trial in (trials[-1], trials[-2]))
    return last >= before / GROWN


def ends(trials: Sequence[Trial], errors: Sequence[float], prior: float) -> bool:
    """Whether a larger C than those of `trials` would not be chosen.

    Args:
        trials: those so far.
        errors: the standard error of the score of each.
        prior: `entropy`.
    """
    if len(trials) <= PATIENCE:
        return False
    scores = [trial.validation_score for trial in trials]
    before = max(scores[:-PATIENCE])
    if max(scores[-PATIENCE:]) > before + 0.25 * errors[scores.index(before)]:
        return False
    recent = trials[-PATIENCE - 1 :]
    return (recent[0].train_loss or 0.0) <= SEPARATED * prior or _learns_by_heart(recent, trials, prior)


def _learns_by_heart(recent: Sequence[Trial], trials: Sequence[Trial], prior: float) -> bool:
    """Whether the classes were learned before the `recent` trials, or the training loss can no longer decrease, and the
    validation loss has grown since. With a small C, neither loss changes and the accuracy may stay constant."""
    then, now = recent[0].train_loss or 0.0, recent[-1].train_loss or 0.0
    learned = then <= LEARNED * prior or then - now <= SEPARATED * (prior - now)
    losses = [trial.validation_loss or 0.0 for trial in trials]
    return learned and min(losses[len(losses) - len(recent) + 1 :]) >= GROWN * min(losses)


def ends_few(trials: Sequence[Trial], prior: float) -> bool:
    """Whether a larger C would not be chosen with few images: the smallest validation loss is PATIENCE values ago, and
    the classes were learned by then, or the images were separated by then, so that a larger C only scales the logits.
    """
    if len(trials) <= PATIENCE:
        return False
    then = trials[-PATIENCE - 1].train_loss or 0.0
    grows = best_loss(trials) not in trials[-PATIENCE:]
    return then <= SEPARATED * prior or (then <= LEARNED * prior and grows)


def best_loss(trials: Sequence[Trial]) -> Trial:
    """The trial with the smallest validation loss; of equal ones that with the smallest C."""
    return min(trials, key=lambda trial: trial.validation_loss or 0.0)


def smallest(trials: Sequence[Trial], errors: Sequence[float]) -> Trial:
    """The trial with the smallest C whose score is within half a standard error of the best; `errors` as in `ends`."""
    scores = [trial.validation_score for trial in trials]
    best = max(scores)
    enough = best - 0.5 * errors[scores.index(best)]
    return next(trial for trial in trials if trial.validation_score >= enough)


def fallback(rows: Rows) -> float:
    """FALLBACK divided by the mean squared distance of the features from their mean; FALLBACK if they are all equal."""
    size = piece_rows(rows.dim, 1)
    mean = sum((part.double().sum(0) for part in rows.pieces(size)), torch.zeros(rows.dim, dtype=torch.float64))
    mean = mean / len(rows)
    variance = sum(float((part.double() - mean).square().sum()) for part in rows.pieces(size)) / len(rows)
    return float(f"{FALLBACK / variance:.6g}") if variance > 0 else FALLBACK


def search_of(trials: Sequence[Trial], chosen: Trial) -> Search:
    """The record of a search that chose one of its trials."""
    c = chosen.values["C"]
    edge: Literal["low", "high"] | None = "low" if c == GRID[0] else "high" if c == GRID[-1] else None
    return Search({"C": c}, chosen.validation_score, edge, tuple(trials))
