"""The features that the benchmarks of the probes fit. Nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits


@dataclass(frozen=True)
class Features:
    """Features of trainval and test."""

    features: np.ndarray  #: (n, D) float32
    labels: np.ndarray  #: (n,) int64
    trainval: int  #: the first images are trainval, the others test
    classes: int


def digits() -> Features:
    """The pixels of scikit-learn's 1797 digits; every fifth one is a test image."""
    features, labels = load_digits(return_X_y=True)
    is_test = np.arange(len(labels)) % 5 == 4
    order = np.argsort(is_test, kind="stable")
    return Features(features[order].astype(np.float32), labels[order], int((~is_test).sum()), 10)


def synthetic(trainval: int, tests: int, classes: int, dim: int = 2048) -> Features:
    """Features similar to an encoder's: non-negative, with a power-law spectrum and overlapping classes."""
    chance = torch.Generator().manual_seed(0)
    scale = torch.arange(1, dim + 1).float() ** -0.7
    labels = torch.randint(classes, (trainval + tests,), generator=chance)
    means = torch.randn(classes, dim, generator=chance) * scale * 0.3
    mixing = torch.linalg.qr(torch.randn(dim, dim, generator=chance))[0]
    noise = torch.randn(trainval + tests, dim, generator=chance) * scale
    return Features(((means[labels] + noise) @ mixing).relu().numpy(), labels.numpy(), trainval, classes)


def mislabeled(trainval: int, tests: int, classes: int, dim: int = 2048) -> Features:
    """Features of overlapping classes; a fifth of the labels are random, so that a medium C is best."""
    chance = torch.Generator().manual_seed(0)
    images = trainval + tests
    scale = torch.arange(1, dim + 1).float() ** -0.7
    labels = torch.randint(classes, (images,), generator=chance)
    means = torch.randn(classes, dim, generator=chance) * scale * 0.5
    mixing = torch.linalg.qr(torch.randn(dim, dim, generator=chance))[0]
    features = torch.empty(images, dim)
    for begin in range(0, images, 8192):
        part = means[labels[begin : begin + 8192]]
        features[begin : begin + 8192] = ((part + torch.randn(part.shape, generator=chance) * scale) @ mixing).relu_()
    wrong = torch.rand(images, generator=chance) < 0.2
    random = torch.randint(classes, (images,), generator=chance)
    return Features(features.numpy(), torch.where(wrong, random, labels).numpy(), trainval, classes)
