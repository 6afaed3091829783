"""Print how the exact probe does on features that are difficult for a solver, next to scikit-learn (docs/probes.md).

Each case has its own features. The exact probe chooses C on the folds of five seeds, as `trex probe` does; accuracies
are means over the seeds. scikit-learn's newton-cholesky fits the same images with each C of the grid; the table shows
its best test accuracy, and how many of its predictions with the chosen C are the same.

Run: OMP_NUM_THREADS=1 .venv/bin/python tools/solver_cases.py
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from trex.interruption import StopRequest
from trex.probing import choice, exact
from trex.probing.design import Basis, Design
from trex.probing.exact import Problem
from trex.probing.folds import validation_fold
from trex.probing.partial import Partial
from trex.probing.rows import Rows

SEEDS = 5
Images = tuple[np.ndarray, np.ndarray]  #: features (n, D) float32, labels (n,) int64
Case = tuple[Images, Images]  #: trainval, test


def gratings(images: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """(n, 3, 64, 64) images of five classes: gratings of five frequencies with random phase, angle, color and noise."""
    chance = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % 5
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    phase, angle = torch.rand(2, images, 1, 1, generator=chance)
    frequency = (4 + 2 * labels)[:, None, None]
    waves = torch.sin(2 * torch.pi * (frequency * (x * (angle / 2).cos() + y * (angle / 2).sin()) + phase)) / 2
    color = 0.3 * torch.randn(images, 3, 1, 1, generator=chance)
    return waves[:, None] + color + 0.25 * torch.randn(images, 3, 64, 64, generator=chance), labels.numpy()


def random_vit() -> Case:
    """Features of an untrained ViT-Tiny: the classes hardly differ, compared with what all images have in common."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0).eval()

    def features(images: int, seed: int) -> Images:
        inputs, labels = gratings(images, seed)
        with torch.no_grad():
            return model(inputs).numpy(), labels

    return features(200, 1), features(400, 2)


def blobs(counts: list[int], seed: int, dim: int = 20, spread: float = 1.5) -> Images:
    """Normal distributions around one mean per class."""
    means = np.random.default_rng(0).normal(size=(len(counts), dim))
    chance = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    return (means[labels] + spread * chance.normal(size=(len(labels), dim))).astype(np.float32), labels


def absent_class() -> Case:
    """A class that has test images only."""
    return blobs([60, 60, 60, 0], 1, spread=2.5), blobs([100] * 4, 2, spread=2.5)


def duplicates() -> Case:
    """Each image twice, one in ten with another label the second time."""
    features, labels = blobs([50] * 5, 1)
    again, chance = labels.copy(), np.random.default_rng(0)
    changed = chance.random(len(labels)) < 0.1
    again[changed] = chance.integers(5, size=changed.sum())
    return (np.concatenate([features, features]), np.concatenate([labels, again])), blobs([400] * 5, 2)


def scaled(factor: float) -> Case:
    """Five classes with features multiplied by `factor`, and an offset of 50 times their spread."""
    (train, labels), (test, test_labels) = blobs([60] * 5, 1), blobs([400] * 5, 2)
    return ((train + 75) * np.float32(factor), labels), ((test + 75) * np.float32(factor), test_labels)


def two_classes() -> Case:
    """Two classes, imbalanced."""
    return blobs([150, 30], 1, spread=3), blobs([500, 100], 2, spread=3)


CASES = {
    "untrained ViT-Tiny": random_vit,
    "class without training images": absent_class,
    "conflicting duplicates": duplicates,
    "scale 1e-8": lambda: scaled(1e-8),
    "scale 1e-3": lambda: scaled(1e-3),
    "scale 1e8": lambda: scaled(1e8),
    "two classes": two_classes,
}


def line(name: str, case: Case) -> str:
    """One row of the table."""
    (train, labels), (test, truth) = case
    classes = int(max(labels.max(), truth.max())) + 1
    basis = Basis.of(Rows(train))
    problem = Problem(Design.of(Rows(train), basis, classes, True), labels, classes, True, StopRequest())
    images = Design.of(Rows(test), basis, classes, True)
    chosen, predicted = [], []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            partial = Partial(Path(folder) / "seed.json", key="")
            chosen.append(exact.choose_c(problem, [validation_fold(labels, seed)], partial).best["C"])
            predicted.append(images.predict(exact.fit(problem, chosen[-1], partial)))
    theirs = {c: _scikit_learn(train, labels, test, c) for c in choice.GRID}
    best = max(theirs, key=lambda c: float((theirs[c] == truth).mean()))
    top1 = 100 * float(np.mean([(one == truth).mean() for one in predicted]))
    same = 100 * float(np.mean([(one == theirs[c]).mean() for c, one in zip(chosen, predicted, strict=True)]))
    reference = 100 * float((theirs[best] == truth).mean())
    smallest, largest = min(chosen), max(chosen)
    return f"| {name} | {smallest:g} … {largest:g} | {top1:.1f} | {same:.1f} | {reference:.1f} at {best:g} |"


def _scikit_learn(train: np.ndarray, labels: np.ndarray, test: np.ndarray, c: float) -> np.ndarray:
    """The predictions of scikit-learn, in float64 on features that are centered and divided by one number."""
    mean = train.astype(np.float64).mean(0)
    scale = float(np.linalg.norm(train - mean)) / len(train) ** 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=c * scale**2, solver="newton-cholesky", tol=1e-12, max_iter=300)
        model.fit((train - mean) / scale, labels)
    return np.asarray(model.predict((test - mean) / scale))


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| case | chosen C | top-1 % | same as scikit-learn's at this C, % | scikit-learn's best top-1 % |")
    print("|---|---|---|---|---|")
    for name, make in CASES.items():
        print(line(name, make()), flush=True)


if __name__ == "__main__":
    main()
