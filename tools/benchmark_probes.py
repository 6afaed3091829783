"""Compare the run time of the exact and the published probe, on the same features and folds, with one thread.

The features are the pixels of scikit-learn's digits, and 3680 x 2048 synthetic features of 37 classes (the size of
Pets) with a power-law spectrum. For each of five seeds, a probe searches, fits all of trainval and predicts the test
images.

Run: OMP_NUM_THREADS=1 .venv/bin/python tools/benchmark_probes.py

With --large IMAGES CLASSES, it measures the CPU time of one seed of the exact probe on 2048-dimensional features with
wrong labels, and prints the estimate of trex/probing/cost.py beside it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from trex.interruption import StopRequest
from trex.probing import exact, published
from trex.probing.cost import exact_cost
from trex.probing.design import Basis, Design
from trex.probing.exact import Problem
from trex.probing.folds import validation_fold
from trex.probing.hardware import multiplies_bfloat16
from trex.probing.memory import Size, solver_memory
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
    basis, fast = Basis.of(rows), multiplies_bfloat16(torch.device("cpu"))
    problem = Problem(Design.of(rows, basis, classes, True), labels[:images], classes, True, StopRequest(), fast)
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


def mislabeled(images: int, tests: int, classes: int, dim: int = 2048) -> Data:
    """Features of overlapping classes; a fifth of the labels are random, so that a medium C is best."""
    chance = torch.Generator().manual_seed(0)
    scale = torch.arange(1, dim + 1).float() ** -0.7
    labels = torch.randint(classes, (images + tests,), generator=chance)
    means = torch.randn(classes, dim, generator=chance) * scale * 0.5
    mixing = torch.linalg.qr(torch.randn(dim, dim, generator=chance))[0]
    features = torch.empty(images + tests, dim)
    for begin in range(0, images + tests, 8192):
        part = means[labels[begin : begin + 8192]]
        features[begin : begin + 8192] = ((part + torch.randn(part.shape, generator=chance) * scale) @ mixing).relu_()
    wrong = torch.rand(images + tests, generator=chance) < 0.2
    random = torch.randint(classes, (images + tests,), generator=chance)
    return features.numpy(), torch.where(wrong, random, labels).numpy(), images


def large(images: int, classes: int, memory: float) -> None:
    """Measure one seed of the exact probe within `memory` bytes."""
    torch.set_num_threads(1)
    features, labels, _ = mislabeled(images, 10_000, classes)
    rows, size = Rows(features[:images]), Size(images, 10_000, features.shape[1], classes)
    kept, estimate = solver_memory(size, memory), exact_cost(size, memory)
    start = time.process_time()
    basis = Basis.of(rows)
    design = Design.at(rows, basis, classes, kept.rows)
    prepared = time.process_time() - start
    fast = multiplies_bfloat16(torch.device("cpu"))
    problem = Problem(design, labels[:images], classes, kept.logits, StopRequest(), fast)
    with tempfile.TemporaryDirectory() as folder:
        partial = Partial(Path(folder) / "seed_0.json", key="")
        start = time.process_time()
        search = exact.choose_c(problem, [validation_fold(problem.labels, 0)], partial)
        searched = time.process_time() - start
        start = time.process_time()
        weights = exact.fit(problem, search.best["C"], partial)
        fitted = time.process_time() - start + prepared
    test = Design.of(Rows(features[images:]), basis, classes, False)
    top1 = 100 * float((test.predict(weights) == labels[images:]).mean())
    print(f"{images} x {features.shape[1]}, {classes} classes: {kept.rows} features, bfloat16: {fast}")
    for name, measured, hours in (("search", searched, estimate.seed), ("final fit", fitted, estimate.fit)):
        print(
            f"{name}: {measured:.0f} s of CPU time, estimate {3600 * hours:.0f} s, {measured / 3600 / hours:.2f} times"
        )
    print(f"C = {search.best['C']:g}, {len(search.trials)} values of C, test top-1 {top1:.1f} %")


def main() -> None:
    """Print one line per dataset and kind of probe, or what --large asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", nargs=2, type=int, metavar=("IMAGES", "CLASSES"), help="measure one large set")
    parser.add_argument("--memory-gb", type=float, default=16, help="probe.memory_gb of --large (%(default)s)")
    args = parser.parse_args()
    if args.large:
        images, classes = args.large
        large(images, classes, args.memory_gb * 1e9)
        return
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
