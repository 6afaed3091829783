"""Compare the run time of the exact and the published probe, on the same features and folds, with one thread.

The features are the pixels of scikit-learn's digits, and 3680 x 2048 synthetic features of 37 classes (the size of
Pets) with a power-law spectrum. For each of five seeds, a probe searches, fits all of trainval and predicts the test
images.

Run: OMP_NUM_THREADS=1 .venv/bin/python tools/benchmark_probes.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from trex.interruption import StopRequest
from trex.probing import exact, published
from trex.probing.design import Basis, Design
from trex.probing.exact import Problem
from trex.probing.folds import validation_fold
from trex.probing.partial import Partial
from trex.probing.rows import Rows

SEEDS = 5
Data = tuple[np.ndarray, np.ndarray, int]  #: features (n, D) float32, labels (n,) int64, number of trainval images


def digits() -> Data:
    """The 1797 digits; every fifth one is a test image."""
    features, labels = load_digits(return_X_y=True)
    order = np.argsort(np.arange(len(labels)) % 5 == 4, kind="stable")
    return features[order].astype(np.float32), labels[order], int((np.arange(len(labels)) % 5 != 4).sum())


def synthetic(images: int = 3680, tests: int = 3669, dim: int = 2048, classes: int = 37) -> Data:
    """Features similar to an encoder's: non-negative, with overlapping classes."""
    chance = torch.Generator().manual_seed(0)
    scale = torch.arange(1, dim + 1).float() ** -0.7
    labels = torch.randint(classes, (images + tests,), generator=chance)
    means = torch.randn(classes, dim, generator=chance) * scale * 0.3
    mixing = torch.linalg.qr(torch.randn(dim, dim, generator=chance))[0]
    noise = torch.randn(images + tests, dim, generator=chance) * scale
    return ((means[labels] + noise) @ mixing).relu().numpy(), labels.numpy(), images


def by_exact(data: Data, folder: Path) -> list[np.ndarray]:
    """The predicted classes of the test images for each seed. The seeds share the basis, as in a job."""
    features, labels, images = data
    rows, classes = Rows(features[:images]), int(labels.max()) + 1
    basis = Basis.of(rows)
    problem = Problem(Design.of(rows, basis, classes, True), labels[:images], classes, True, StopRequest())
    test = Design.of(Rows(features[images:]), basis, classes, True)
    found = []
    for seed in range(SEEDS):
        partial = Partial(folder / f"exact_{seed}.json", key="")
        choice = exact.choose_c(problem, [validation_fold(problem.labels, seed)], partial)
        found.append(test.predict(exact.fit(problem, choice.best["C"], partial)))
    return found


def by_published(data: Data, folder: Path) -> list[np.ndarray]:
    """The predicted classes of the test images for each seed, by the published probe."""
    features, labels, images = data
    rows, targets, fit = Rows(features[:images]), labels[:images], published.fit_lbfgs
    found = []
    for seed in range(SEEDS):
        partial = Partial(folder / f"published_{seed}.json", key="")
        fold, ranges = validation_fold(targets, seed), {"C": published.C_RANGE}
        choice = published.choose(fit, ranges, rows, targets, fold, seed, StopRequest(), partial)
        found.append(fit(rows, targets, choice.best)(Rows(features[images:])))
    return found


def main() -> None:
    """Print one line per dataset and kind of probe."""
    for name, data in (("digits", digits()), ("3680 x 2048, 37 classes", synthetic())):
        truth = data[1][data[2] :]
        seconds = {}
        for kind, run in (("published", by_published), ("exact", by_exact)):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                predicted = run(data, Path(folder))
                seconds[kind] = time.perf_counter() - start
            top1 = 100 * float(np.mean([(one == truth).mean() for one in predicted]))
            print(f"{name}: {kind}: {seconds[kind]:.1f} s, test top-1 {top1:.1f} %", flush=True)
        print(f"{name}: exact is {seconds['published'] / seconds['exact']:.1f} times as fast", flush=True)


if __name__ == "__main__":
    main()
