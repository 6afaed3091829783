"""Which images of trainval train a probe and which choose its hyper-parameters: functions of labels and seed."""

from __future__ import annotations

import numpy as np

VALIDATION_SHARE = 0.2
MAX_FOLDS = 5

Fold = tuple[np.ndarray, np.ndarray]  #: indices (int64, sorted) to train on, and to validate on


def validation_fold(labels: np.ndarray, seed: int) -> Fold:
    """20 % of each class to validation, at least one image; a class of a single image keeps it for training.

    Args:
        labels: (n,) int64.
        seed: of the choice.

    Returns:
        Indices to train on and to validate on.
    """
    validation = [
        members[: max(round(VALIDATION_SHARE * len(members)), 1)]
        for members in _shuffled_classes(labels, seed)
        if len(members) > 1
    ]
    chosen = np.sort(np.concatenate(validation)) if validation else np.zeros(0, np.int64)
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def few_shot(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Sorted indices of `shots` images of each class, or all of a class that has fewer."""
    return np.sort(np.concatenate([members[:shots] for members in _shuffled_classes(labels, seed)]))


def few_shot_folds(labels: np.ndarray, seed: int) -> list[Fold]:
    """Cross-validation for few images: each image of a class validates in one of up to five folds.

    One fifth of five images per class would be a single one to choose by; here every image validates once. Classes
    with one image only train. No fold at all where every class has one.
    """
    fold_of = np.full(len(labels), -1, dtype=np.int64)
    most = 0
    for members in _shuffled_classes(labels, seed):
        if len(members) > 1:
            fold_of[members] = np.arange(len(members)) % MAX_FOLDS
            most = max(most, min(len(members), MAX_FOLDS))
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(most)]


def _shuffled_classes(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """The indices of each class in an order drawn from (seed, class): what one class holds does not touch another."""
    classes = []
    for label in np.unique(labels):
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, int(label)], dtype=np.uint64)))
        classes.append(rng.permutation(np.flatnonzero(labels == label)))
    return classes
