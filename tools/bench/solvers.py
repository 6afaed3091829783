"""Compare the CPU time of solvers for one multinomial logistic regression, at equal accuracy.

The features are `mislabeled` of tools/bench/probe_sets.py. Each solver minimizes the same
objective, C Σ CE + ½ ‖W‖² with an intercept without penalty. It is run with ever more iterations (or epochs); the first
run whose objective is within a relative distance of 1e-3, or 1e-5, of the minimum counts. The minimum is the smallest
objective that any run finds, computed in float64. Test images decide the accuracy. One thread.

- scikit-learn: LogisticRegression(solver="lbfgs").
- torch LBFGS: torch.optim.LBFGS, full batch, float32, strong Wolfe line search, history of 10.
- SGD: minibatches of 256, momentum 0.9, cosine learning rate; three learning rates. A user has to find the best one.
- exact: the final fit of the exact probe, with the eigenbasis and the confirmation in float64.

Run: python -m tools.bench.solvers [--images N --classes K --C C]
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tools.bench.probe_sets import mislabeled
from trex.interruption import StopRequest
from trex.probing import exact
from trex.probing.design import Basis, Design
from trex.probing.exact import Problem
from trex.probing.hardware import multiplies_bfloat16
from trex.probing.partial import Partial
from trex.probing.rows import Rows

DIM, TESTS = 1024, 5000
GOALS = (1e-3, 1e-5)


@dataclass(frozen=True)
class Task:
    """One regression."""

    features: Tensor  #: (n, D) float32, centered and divided by the root of their mean squared length
    labels: Tensor  #: (n,) int64
    tests: Tensor
    test_labels: Tensor
    classes: int
    c: float

    def objective(self, weights: Tensor) -> float:
        """The objective divided by C · n, with (K, D + 1) weights."""
        logits = torch.addmm(weights[:, -1].double(), self.features.double(), weights[:, :-1].double().T)
        penalty = 0.5 * float(weights[:, :-1].double().square().sum()) / (self.c * len(self.labels))
        return float(F.cross_entropy(logits, self.labels)) + penalty

    def top1(self, weights: Tensor) -> float:
        """The accuracy on the test images, percent."""
        logits = torch.addmm(weights[:, -1].float(), self.tests, weights[:, :-1].float().T)
        return 100 * float((logits.argmax(1) == self.test_labels).float().mean())


#: The weights, (K, D + 1), of a run with a budget, and the CPU seconds until then.
Runs = Callable[[Task], Iterator[tuple[Tensor, float]]]


def scikit_learn(task: Task) -> Iterator[tuple[Tensor, float]]:
    """Runs of scikit-learn, each from the beginning."""
    from sklearn.linear_model import LogisticRegression

    for iterations in (25, 50, 100, 200, 400, 800):
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=task.c, tol=1e-8, max_iter=iterations)
            model.fit(task.features.numpy(), task.labels.numpy())
        seconds = time.process_time() - start
        yield torch.from_numpy(np.concatenate([model.coef_, model.intercept_[:, None]], 1)), seconds


def torch_lbfgs(task: Task) -> Iterator[tuple[Tensor, float]]:
    """One run of torch.optim.LBFGS, looked at every 10 iterations."""
    weights = torch.zeros(task.classes, DIM + 1, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weights], max_iter=10, history_size=10, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(torch.addmm(weights[:, -1], task.features, weights[:, :-1].T), task.labels)
        value = value + 0.5 * weights[:, :-1].square().sum() / (task.c * len(task.labels))
        value.backward()  # type: ignore[no-untyped-call]
        return value

    seconds = 0.0
    for _ in range(40):
        start = time.process_time()
        solver.step(loss)  # type: ignore[no-untyped-call]
        seconds += time.process_time() - start
        yield weights.detach().clone(), seconds


def sgd(rate: float) -> Runs:
    """Runs of SGD with a learning rate, each from the beginning."""

    def runs(task: Task) -> Iterator[tuple[Tensor, float]]:
        strength = 1 / (task.c * len(task.labels))
        for epochs in (10, 30, 100):
            chance, start = torch.Generator().manual_seed(0), time.process_time()
            model = torch.nn.Linear(DIM, task.classes)
            torch.nn.init.zeros_(model.weight)
            groups: list[dict[str, Any]] = [
                {"params": [model.weight], "weight_decay": strength},
                {"params": [model.bias]},
            ]
            solver = torch.optim.SGD(groups, lr=rate, momentum=0.9)
            steps = epochs * (len(task.labels) // 256)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, steps)
            for _ in range(epochs):
                order = torch.randperm(len(task.labels), generator=chance)
                for places in torch.split(order, 256)[: steps // epochs]:
                    solver.zero_grad()
                    F.cross_entropy(model(task.features[places]), task.labels[places]).backward()  # type: ignore[no-untyped-call]
                    solver.step()
                    schedule.step()
            seconds = time.process_time() - start
            yield torch.cat([model.weight, model.bias[:, None]], 1).detach(), seconds

    return runs


def ours(task: Task) -> Iterator[tuple[Tensor, float]]:
    """The final fit of the exact probe."""
    start = time.process_time()
    rows = Rows(task.features.numpy())
    basis, fast = Basis.of(rows, dtype=torch.float32), multiplies_bfloat16(torch.device("cpu"))
    design = Design.at(rows, basis, task.classes, "rotated")
    problem = Problem(design, task.labels.numpy(), task.classes, True, StopRequest(), fast)
    with tempfile.TemporaryDirectory() as folder:
        weights = exact.fit(problem, task.c, Partial(Path(folder) / "fit.json", key="")).double()
    seconds = time.process_time() - start
    factor = weights[:, :-1] @ basis.vectors.T
    yield torch.cat([factor, (weights[:, -1] - factor @ basis.mean)[:, None]], 1), seconds


def main() -> None:
    """Print one line per solver."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--C", type=float, default=10.0, help="of features with a mean squared length of 1")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data, images = mislabeled(args.images, TESTS, args.classes, DIM), args.images
    features, labels = data.features, data.labels
    features = features - features[:images].mean(0)
    features /= np.sqrt(np.square(features[:images]).sum(1).mean())
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    task = Task(x[:images], y[:images], x[images:], y[images:], args.classes, args.C)
    solvers: dict[str, Runs] = {"exact": ours, "scikit-learn": scikit_learn, "torch LBFGS": torch_lbfgs}
    solvers |= {f"SGD, learning rate {rate:g}": sgd(rate) for rate in (0.3, 3.0, 30.0)}
    found: dict[str, list[tuple[float, float, float]]] = {}
    for name, runs in solvers.items():
        found[name], least = [], min((run[0] for many in found.values() for run in many), default=-np.inf)
        for weights, seconds in runs(task):
            found[name].append((task.objective(weights), seconds, task.top1(weights)))
            if found[name][-1][0] <= least * (1 + GOALS[-1]):
                break
    least = min(run[0] for many in found.values() for run in many)
    print(f"{images} x {DIM}, {args.classes} classes, C = {args.C:g}")
    for name, many in found.items():
        best = min(many)
        print(f"{name}: closest {best[0] / least - 1:.1e} in {best[1]:.1f} s, top-1 {best[2]:.2f} %", end="")
        for goal in GOALS:
            first = next((run for run in many if run[0] <= least * (1 + goal)), None)
            print(f"; {goal:g}: " + (f"{first[1]:.1f} s" if first else "not reached"), end="")
        print(flush=True)


if __name__ == "__main__":
    main()
