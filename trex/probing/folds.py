"""Which images of trainval train a probe, and which validate its hyper-parameters. Depends on labels and seed alone."""

from __future__ import annotations

import numpy as np

VALIDATION_PART = 5  #: one of this many images of each class is for validation
MAX_FOLDS = 5

Fold = tuple[np.ndarray, np.ndarray]  #: indices (int64, sorted) to train on, and to validate on


def validation_fold(labels: np.ndarray, seed: int) -> Fold:
    """Take 20 % of each class for validation, rounded down, but at least one image.

    A single image of a class is for training. Other classes never change how many images of a class are taken.

    Args:
        labels: (n,) int64.
        seed: seed of the random choice.

    Returns:
        The indices to train on and those to validate on.
    """
    validation = [
        members[: max(len(members) // VALIDATION_PART, 1)]
        for members in _shuffled_classes(labels, seed)
        if len(members) > 1
    ]
    chosen = np.sort(np.concatenate(validation)) if validation else np.zeros(0, np.int64)
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def multi_label_fold(labels: np.ndarray, seed: int) -> Fold:
    """Take about 20 % of the images that show each class for validation, and of those that show none.

    The classes are divided one after the other, beginning with the one that the fewest images show. Each takes what is
    missing to a fifth, rounded down, but at least one image, from its images that no class before it has taken; the
    others of its images are for training. An image that alone shows a class is for training.

    Args:
        labels: (n, K) int8, 1 for images that show a class.
        seed: seed of the random choice.

    Returns:
        The indices to train on and those to validate on.
    """
    shown = np.column_stack([labels > 0, ~(labels > 0).any(1)])  # the images without a class are one more class
    validation, divided = np.zeros((2, len(labels)), bool)
    for label in np.argsort(shown.sum(0), kind="stable"):
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, int(label)], dtype=np.uint64)))
        members = np.flatnonzero(shown[:, label])
        free = rng.permutation(members[~divided[members]])
        wanted = max(len(members) // VALIDATION_PART, 1) if len(members) > 1 else 0
        validation[free[: max(wanted - int(validation[members].sum()), 0)]] = True
        divided[members] = True
    return np.flatnonzero(~validation), np.flatnonzero(validation)


def few_shot(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Sorted indices, int64, of `shots` images per class, or of all images of a class that has fewer."""
    return np.sort(np.concatenate([members[:shots] for members in _shuffled_classes(labels, seed)]))


def few_shot_folds(labels: np.ndarray, seed: int) -> list[Fold]:
    """Up to five folds for cross-validation: each image validates in exactly one of them.

    With five images per class, a fifth would be a single validation image per class; here every image validates once.
    The image of a class that has only one is in the training images of all folds. If every class has only one image,
    the list is empty.
    """
    fold_of = np.full(len(labels), -1, dtype=np.int64)
    most = 0
    for members in _shuffled_classes(labels, seed):
        if len(members) > 1:
            fold_of[members] = np.arange(len(members)) % MAX_FOLDS
            most = max(most, min(len(members), MAX_FOLDS))
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(most)]


def _shuffled_classes(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """The indices of each class, in a random order that depends on the seed and that class alone."""
    classes = []
    for label in np.unique(labels):
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, int(label)], dtype=np.uint64)))
        classes.append(rng.permutation(np.flatnonzero(labels == label)))
    return classes
