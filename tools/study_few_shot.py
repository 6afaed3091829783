"""Which rule chooses C well with few images per class? Writes the table of docs/probes.md.

For each dataset, number of images per class and seed, it solves the few-shot problem and its folds along the grid of C,
then compares what each rule would have chosen with the test accuracy. Needs the features of `make showcase`.

    OMP_NUM_THREADS=1 .venv/bin/python tools/study_few_shot.py

Takes an hour on one core. The solved paths are kept in data/few_shot_study/, so that it continues after a stop.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from real_images import fashion
from sklearn.datasets import load_digits

from trex.features.store import open_features
from trex.interruption import StopRequest
from trex.probing.choice import GRID
from trex.probing.design import Basis, Design
from trex.probing.exact import Problem
from trex.probing.folds import few_shot, few_shot_folds
from trex.probing.rows import Rows
from trex.records.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "data" / "few_shot_study"
SHOTS, SEEDS, CLASSES = (1, 2, 4, 5, 10, 16), 20, 10
#: Below this training loss, in nats, the images are separated: larger values of C are not solved.
SEPARATED = 3e-3
LOG_C = np.log(GRID)


@dataclass(frozen=True)
class Set:
    """Features and labels of a dataset."""

    name: str
    x: np.ndarray  #: (n, D) float32
    y: np.ndarray  #: (n,) int64
    test_x: np.ndarray
    test_y: np.ndarray


@dataclass(frozen=True)
class Curves:
    """One few-shot problem at each C of the grid; from the first separated one on, values are repeated."""

    test: np.ndarray  #: (C,) test accuracy after a fit of all images
    hits: np.ndarray  #: (C,) correct predictions in cross-validation
    loss: np.ndarray  #: (C,) sum of the cross-entropies in cross-validation; inf after the first separated C
    train_loss: np.ndarray  #: (C,) mean training loss of the folds
    variance: float  #: mean squared distance of the images from their mean
    images: int


def sets() -> Iterator[Set]:
    """Three sets of features: small and large numbers, with and without an encoder."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    yield Set("digits, pixels", x[:1000], y[:1000], x[1000:], y[1000:])
    (images, labels), (others, other_labels) = fashion("train"), fashion("t10k")
    x, z = ((one[:n].reshape(n, -1) / 255 * 3**0.5).astype(np.float32) for one, n in ((images, 3000), (others, 2000)))
    yield Set("Fashion-MNIST, pixels", x, labels[:3000].astype(np.int64), z, other_labels[:2000].astype(np.int64))
    run = RunDir(ROOT / "runs" / "showcase_lite0")
    train, test = (open_features(run.features("fashion", split)) for split in ("trainval", "test"))
    x, z = np.array(train.features), np.array(test.features)
    yield Set("Fashion-MNIST, lite0", x, train.labels, z, test.labels)


def curves(data: Set, shots: int, seed: int) -> Curves:
    """Solve one few-shot problem and its folds along the grid."""
    chosen = few_shot(data.y, shots, seed)
    rows, labels = Rows(data.x).subset(chosen), data.y[chosen]
    basis = Basis.of(rows)
    design, test = (Design.of(one, basis, CLASSES, in_memory=True) for one in (rows, Rows(data.test_x)))
    problem = Problem(design, labels, CLASSES, keep_logits=True, stop=StopRequest())
    folds = few_shot_folds(labels, seed)
    paths, whole = [problem.path(fold[0], None) for fold in folds], problem.path(None, None)
    table, separated = np.zeros((len(GRID), 4)), False
    for i, c in enumerate(GRID):
        if separated:
            table[i] = table[i - 1]
            table[i, 2] = np.inf
            continue
        solution = whole.solve(c)
        separated = solution.entropy < SEPARATED
        table[i, 0] = (_logits(test, solution.weights).argmax(1).numpy() == data.test_y).mean()
        for path, fold in zip(paths, folds, strict=True):
            solution, target = path.solve(c), torch.from_numpy(labels[fold[1]])
            logits = _logits(design.subset(fold[1]), solution.weights)
            table[i, 1] += int((logits.argmax(1) == target).sum())
            table[i, 2] += float(F.cross_entropy(logits, target, reduction="sum"))
            table[i, 3] += solution.entropy / len(folds)
    few = data.x[chosen].astype(np.float64)
    test_top1, hits, loss, train_loss = table.T
    variance = float(((few - few.mean(0)) ** 2).sum(1).mean())
    return Curves(test_top1, hits, loss, train_loss, variance, len(chosen))


def _logits(design: Design, weights: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(design.logits(weights))).float()


# ---- the rules: each returns an index of the grid


def half_error(one: Curves) -> int:
    """The former rule: the smallest C within half a standard error of the best accuracy; the path ends early."""
    accuracy = one.hits / one.images
    found: list[float] = []
    for i, value in enumerate(accuracy):
        if len(found) > 3 and one.train_loss[i - 4] <= 0.9 * np.log(CLASSES):
            before = max(found[:-3])
            if max(found[-3:]) <= before + 0.25 * _error(before, one.images):
                break
        found.append(value)
    return int(np.argmax(np.array(found) >= max(found) - 0.5 * _error(max(found), one.images)))


def _error(accuracy: float, images: int) -> float:
    return float(np.sqrt(max(accuracy * (1 - accuracy), 0.25 / images) / images))


def posterior(one: Curves) -> int:
    """The mean of log C, each C weighted by its cross-validated likelihood."""
    weights = np.exp(one.loss.min() - one.loss)
    return int(np.abs(LOG_C - (weights * LOG_C).sum() / weights.sum()).argmin())


def fixed(c: float, scaled: bool) -> Callable[[Curves], int]:
    """The same C everywhere, or divided by the variance of the images."""
    return lambda one: int(np.abs(LOG_C - np.log(c / one.variance if scaled else c)).argmin())


SEARCHES: dict[str, Callable[[Curves], int]] = {
    "accuracy, half a standard error (former rule)": half_error,
    "accuracy, smallest C of the best": lambda one: int(one.hits.argmax()),
    "**likelihood**": lambda one: int(one.loss.argmin()),
    "mean of log C, weighted by the likelihood": posterior,
}
CONSTANTS = {
    "C = 1": fixed(1, scaled=False),
    "C = 3 / variance": fixed(3, scaled=True),
    "C = 10 / variance": fixed(10, scaled=True),
    "C = 100 / variance": fixed(100, scaled=True),
    "C = 1000 / variance": fixed(1000, scaled=True),
}


def solved(data: Set, shots: int) -> list[Curves]:
    """The curves of all seeds, from the cache if they are there."""
    path = CACHE / f"{data.name.replace(', ', '_')}_{shots}.npz"
    if path.exists():
        with np.load(path) as file:
            rows = zip(file["curves"], file["variance"], strict=True)
            images = int(file["images"])
            return [Curves(one[0], one[1], one[2], one[3], float(variance), images) for one, variance in rows]
    found = [curves(data, shots, seed) for seed in range(SEEDS)]
    CACHE.mkdir(parents=True, exist_ok=True)
    tables = np.stack([[one.test, one.hits, one.loss, one.train_loss] for one in found])
    np.savez(path, curves=tables, variance=[one.variance for one in found], images=found[0].images)
    print(f"{data.name}, {shots} per class: done", file=sys.stderr)
    return found


def main() -> None:
    """Print both tables as Markdown."""
    everything = {data.name: {shots: solved(data, shots) for shots in SHOTS} for data in sets()}
    print(f"| 2 to 16 images per class | {' | '.join(everything)} | worst seed | largest loss |")
    print("|---" * (len(everything) + 3) + "|")
    for name, rule in (SEARCHES | CONSTANTS).items():
        print(_row(name, rule, everything, SHOTS[1:]))
    print(f"\n| 1 image per class | {' | '.join(everything)} | worst seed | largest loss |")
    print("|---" * (len(everything) + 3) + "|")
    for name, rule in CONSTANTS.items():
        print(_row(name, rule, everything, SHOTS[:1]))


def _row(
    name: str, rule: Callable[[Curves], int], everything: dict[str, dict[int, list[Curves]]], wanted: tuple[int, ...]
) -> str:
    means, worst, losses = [], [], []
    for by_shots in everything.values():
        top1 = np.array([[one.test[rule(one)] for one in by_shots[shots]] for shots in wanted])
        best = np.array([[one.test.max() for one in by_shots[shots]] for shots in wanted])
        means.append(100 * top1.mean())
        worst.append(100 * top1.min(1).mean())
        losses.append(100 * (best - top1).max())
    columns = [*means, float(np.mean(worst)), max(losses)]
    return f"| {name} | {' | '.join(f'{value:.1f}' for value in columns)} |"


if __name__ == "__main__":
    main()
