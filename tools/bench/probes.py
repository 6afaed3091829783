"""The probe `exact` against the `published` search: 30 trials of scikit-learn's L-BFGS, then a fit of all of trainval.

python -m tools.bench probes                        # the page benchmarks/probes.md
python -m tools.bench.probes --large 50000 500      # one seed of a large set, and its estimate (trex/probing/cost.py)
python -m tools.bench.solvers                       # one fit at a given C, against other solvers
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tools.bench.alternate import Times
from tools.bench.page import Row, Topic
from tools.bench.probe_sets import Features, digits, mislabeled, synthetic
from trex.interruption import StopRequest
from trex.probing import exact, published
from trex.probing.approach import Approaches
from trex.probing.cost import exact_cost
from trex.probing.design import CPU, Basis, Design
from trex.probing.folds import validation_fold
from trex.probing.hardware import multiplies_bfloat16
from trex.probing.memory import Size, is_small, solver_memory
from trex.probing.partial import Partial
from trex.probing.rows import Rows
from trex.probing.solution import CONFIRMED, FINAL

SEEDS = 5


@dataclass(frozen=True)
class Outcome:
    """What one seed of a probe found."""

    seconds: float  #: CPU seconds from the beginning of the first seed, less what is not part of the probe
    c: float
    validation: float  #: share of the validation images that are classified correctly with this C
    top1: float  #: share of the test images

    def __str__(self) -> str:
        return f"val {100 * self.validation:.1f} %, test {100 * self.top1:.1f} %, C = {self.c:.3g}"


def by_exact(data: Features, seeds: int) -> list[Outcome]:
    """All seeds of `exact`, as in a job: they share the basis, the approach of the final fits, and those for one C."""
    rows, labels, truth = (
        Rows(data.features[: data.trainval]),
        data.labels[: data.trainval],
        data.labels[data.trainval :],
    )
    fast, start = multiplies_bfloat16(CPU), time.process_time()
    small = is_small(len(rows), rows.dim, data.classes)
    basis = Basis.of(rows, dtype=torch.float64 if small else torch.float32)
    design = Design.of(rows, basis, data.classes, in_memory=True)
    test = Design.of(Rows(data.features[data.trainval :]), basis, data.classes, in_memory=False)
    shared, found, fitted = Approaches(), [], {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            problem = exact.Problem(design, labels, data.classes, True, StopRequest(), fast, shared)
            partial = Partial(Path(folder) / f"{seed}.json", key="")
            search = exact.choose_c(problem, [validation_fold(labels, seed)], partial)
            c = search.best["C"]
            if c not in fitted:
                fitted[c] = float((test.predict(exact.fit(problem, c, partial)) == truth).mean())
            found.append(Outcome(time.process_time() - start, c, search.validation_score or 0.0, fitted[c]))
    return found


def by_published(data: Features, sample: tuple[float, ...], chosen: float) -> Outcome:
    """One seed of `published`: the fits at `sample`, which count as 30, and the final fit at C = `chosen`, one of them.
    Without a sample, the whole search."""
    rows, labels, truth = (
        Rows(data.features[: data.trainval]),
        data.labels[: data.trainval],
        data.labels[data.trainval :],
    )
    fold, start, score = validation_fold(labels, 0), time.process_time(), 0.0
    if sample:
        for c in sample:
            predicted = published.fit_lbfgs(rows.subset(fold[0]), labels[fold[0]], {"C": c})(rows.subset(fold[1]))
            score = float((predicted == labels[fold[1]]).mean()) if c == chosen else score
    else:
        with tempfile.TemporaryDirectory() as folder:
            partial, ranges = Partial(Path(folder) / "0.json", key=""), {"C": published.C_RANGE}
            search = published.choose(published.fit_lbfgs, ranges, rows, labels, fold, 0, StopRequest(), partial)
            chosen, score = search.best["C"], search.validation_score or 0.0
    searched = (time.process_time() - start) * (published.TRIALS / len(sample) if sample else 1)
    start = time.process_time()
    predicted = published.fit_lbfgs(rows, labels, {"C": chosen})(Rows(data.features[data.trainval :]))
    return Outcome(searched + time.process_time() - start, chosen, score, float((predicted == truth).mean()))


#: The values of C of a complete search (seed 0) are sorted and divided into five groups of six. Of each group, one is
#: measured that takes about as long as their mean; the sums are 1 and 4 % below those of the complete searches. The
#: value that the search chose is one of them.
PETS = (0.0221, 2.51, 127.0, 736.0, 8890.0)
CARS = (0.165, 3.0, 94.0, 149.0, 15000.0)


def rows() -> Iterator[Row]:
    """Each set: one seed, and five. Five seeds of `published` share nothing and count as five times one."""
    small = digits()
    yield from _rows("1437 × 64, 10 classes (digits, pixels)", small, (), 0.0, 3, ("", ""))
    yield from _rows("3680 × 2048, 37 classes", synthetic(3680, 3669, 37), PETS, 127.0, 3, ("≥ 12", "≥ 20"))
    yield from _rows("8144 × 2048, 196 classes", synthetic(8144, 4000, 196), CARS, 149.0, 1, ("≥ 12", "≥ 20"))


def _rows(
    name: str, data: Features, sample: tuple[float, ...], chosen: float, rounds: int, goals: tuple[str, str]
) -> Iterator[Row]:
    usual, ours = [], []
    for number in range(rounds):
        for is_ours in (False, True) if number % 2 else (True, False):
            if is_ours:
                ours.append(by_exact(data, SEEDS))
            else:
                usual.append(by_published(data, sample, chosen))
    small = is_small(data.trainval, data.features.shape[1], data.classes)
    gap = f"gap asked for ≤ {(FINAL if small else CONFIRMED).gap:g}"
    for seeds, goal in zip((1, SEEDS), goals, strict=True):
        times = Times(
            tuple(seeds * one.seconds for one in usual), tuple(found[seeds - 1].seconds for found in ours)
        )  # fmt: skip
        chosen_by = ours[0][:seeds]
        quality = (
            f"published: {usual[0]}; exact: val {100 * np.mean([one.validation for one in chosen_by]):.1f} %, "
            f"test {100 * np.mean([one.top1 for one in chosen_by]):.1f} %, "
            f"C = {', '.join(f'{c:.3g}' for c in sorted({one.c for one in chosen_by}))}, {gap}"
        )
        what = f"{name}, {seeds} seed{'s' if seeds > 1 else ''}"
        usually, here = (f"{value:.2f} s" for value in (times.usual_median, times.ours_median))
        yield Row(what, usually, here, times.spread, goal, quality)


TOPIC = Topic(
    "Probes",
    "A linear probe: choose C on a fifth of trainval, fit all of trainval, classify the test images. The usual way is "
    "the published search: 30 trials of Optuna's TPE with scikit-learn's L-BFGS, and a final fit. In the two larger "
    "sets, five fits of a complete search stand for its 30, one of each fifth of its values of C (their sum is 1 and "
    "4 % below that of all 30). Five seeds count as five times one, because they share nothing. The features are "
    "synthetic: non-negative, with a power-law spectrum (tools/bench/probe_sets.py).\n\n"
    "CPU seconds, one thread. scikit-learn's default tolerance ends its fits early at a large C, so the two searches "
    "choose other values of C, and `exact` classifies more test images correctly.",
    rows,
)


def large(images: int, classes: int, memory: float) -> None:
    """Measure one seed of the exact probe within `memory` bytes."""
    torch.set_num_threads(1)
    data = mislabeled(images, 10_000, classes)
    rows_, size = Rows(data.features[:images]), Size(images, 10_000, data.features.shape[1], classes)
    kept, estimate = solver_memory(size, memory), exact_cost(size, memory)
    start = time.process_time()
    basis = Basis.of(rows_, dtype=torch.float32)
    design = Design.at(rows_, basis, classes, kept.rows)
    prepared = time.process_time() - start
    problem = exact.Problem(
        design, data.labels[:images], classes, kept.logits, StopRequest(), multiplies_bfloat16(CPU)
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        partial = Partial(Path(folder) / "seed_0.json", key="")
        start = time.process_time()
        search = exact.choose_c(problem, [validation_fold(problem.labels, 0)], partial)
        searched = time.process_time() - start
        start = time.process_time()
        weights = exact.fit(problem, search.best["C"], partial)
        fitted = time.process_time() - start + prepared
    test = Design.of(Rows(data.features[images:]), basis, classes, in_memory=False)
    top1 = 100 * float((test.predict(weights) == data.labels[images:]).mean())
    print(f"{images} x {size.dim}, {classes} classes: {kept.rows} features, bfloat16: {problem.fast}")
    for name, measured, hours in (("search", searched, estimate.seed), ("final fit", fitted, estimate.fit)):
        ratio = measured / 3600 / hours
        print(f"{name}: {measured:.0f} s of CPU time, estimate {3600 * hours:.0f} s, {ratio:.2f} times")
    print(f"C = {search.best['C']:g}, {len(search.trials)} values of C, test top-1 {top1:.1f} %")


def main() -> None:
    """Measure a large set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", nargs=2, type=int, metavar=("IMAGES", "CLASSES"), required=True)
    parser.add_argument("--memory-gb", type=float, default=16, help="probe.memory_gb (%(default)s)")
    args = parser.parse_args()
    images, classes = args.large
    large(images, classes, args.memory_gb * 1e9)


if __name__ == "__main__":
    main()
