"""The exact solver against tight float64 optima, on features of any scale, offset and number.

tests/probing/optimum.py makes the problems and their optima.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.probing.optimum import Case, Optimum, Reference, random_case
from trex.errors import Interrupted
from trex.interruption import StopRequest
from trex.probing import choice, exact
from trex.probing.design import Basis, Design
from trex.probing.exact import Problem
from trex.probing.folds import validation_fold
from trex.probing.memory import Place
from trex.probing.partial import Partial
from trex.probing.rows import Rows
from trex.probing.softmax import cross_entropy
from trex.probing.solution import APPROACH, CONFIRMED, FINAL, FINAL_FLOAT32, SEARCH_LARGE, Accuracy, Point, Solution
from trex.probing.solver import RegularizationPath
from trex.records.probe_result import Trial


def gap_of(
    case: Case, reference: Reference, weights: np.ndarray, intercepts: np.ndarray, best: Optimum, c: float
) -> float:
    """f(W) - f(W*). If the logits hardly differ, from the mean of log Σ p* exp Δ - Δ_y for the changes Δ of the logits;
    otherwise from both values of f, which have small relative errors."""
    x = case.train.astype(np.float64) - reference.mean
    logits = x @ best.weights.T + best.intercepts
    change = x @ (weights - best.weights).T + (intercepts - best.intercepts)
    images, y = np.arange(len(x)), reference.y
    if np.abs(change).max() < 1e-3:
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        loss = np.log1p((p * np.expm1(change)).sum(1)) - change[images, y]
    else:
        both = [
            float(cross_entropy(torch.from_numpy(one.T.copy()), torch.from_numpy(y))[0])
            for one in (logits + change, logits)
        ]
        loss = np.array(both[0] - both[1]) / len(x)
    strength = (2 if reference.k == 2 else 1) / (c * len(x))
    return float(loss.mean() + strength / 2 * ((weights - best.weights) * (weights + best.weights)).sum())


def solutions(case: Case, basis: Basis) -> list[Solution]:
    design = Design.of(Rows(case.train), basis, case.classes, True, torch.float64)
    path = RegularizationPath(design, case.labels, case.classes, StopRequest())
    for c in path.approach(choice.GRID[0]):
        path.solve(c, APPROACH)
    return [path.solve(c, FINAL) for c in choice.GRID]


def agreement(case: Case, reference: Reference, weights: torch.Tensor, best: Optimum, basis: Basis) -> tuple[int, int]:
    """How many of the test images that the optimum decides are classified as by the optimum, and how many it decides:
    those whose margin is a hundred times what the next Newton step would change."""
    x = case.test.astype(np.float64) - reference.mean
    logits, change = x @ best.weights.T + best.intercepts, x @ best.step[0].T + best.step[1]
    ordered = np.sort(logits, axis=1)
    decided = ordered[:, -1] - ordered[:, -2] > 200 * np.abs(change - change.mean(1, keepdims=True)).max(1)
    predicted = Design.of(Rows(case.test), basis, case.classes, False).predict(weights)
    same = reference.present[logits.argmax(1)] == predicted
    return int(same[decided].sum()), int(decided.sum())


@pytest.mark.parametrize("seed", [*range(12), 13, 14])
def test_every_c_gives_the_predictions_and_the_objective_of_the_optimum(seed: int) -> None:
    case = random_case(seed)
    reference, basis = Reference(case), Basis.of(Rows(case.train))
    same, decided = 0, 0
    for c, solution, best in zip(choice.GRID, solutions(case, basis), reference.optima(choice.GRID), strict=True):
        assert torch.isfinite(solution.weights[:, :-1]).all()
        equal, of = agreement(case, reference, solution.weights, best, basis)
        same, decided = same + equal, decided + of
        if of > 0.99 * len(case.test):
            kept = solution.weights[torch.from_numpy(reference.present)]
            weights = (kept[:, :-1] @ basis.vectors.T).numpy()
            gap = gap_of(case, reference, weights, kept[:, -1].numpy(), best, c)
            whole = max(solution.penalty, min(solution.objective, -np.log(1 / case.classes)))
            rounding = 1e-14 * solution.objective if gap > 1e-12 * solution.objective else 1e-12 * solution.penalty
            assert gap <= solution.gap * whole * 1.01 + rounding, (case.name, c)
    assert same >= 0.999 * decided, (case.name, same, decided)
    assert decided >= 0.5 * len(choice.GRID) * len(case.test), case.name


@pytest.mark.parametrize(("place", "fast"), [("rotated", False), ("rotated", True), ("half", True), ("file", False)])
@pytest.mark.parametrize("seed", [1, 2, 8, 10, 14])
def test_large_problems_end_at_the_same_optimum(
    seed: int, place: Place, fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their path computes in bfloat16 or float32, and float64 finishes the fit. The line search uses a sample."""
    monkeypatch.setattr("trex.probing.memory.SMALL_PRODUCT", 0)
    monkeypatch.setattr("trex.probing.memory.SAMPLE", 50)
    case = random_case(seed)
    reference, rows = Reference(case), Rows(case.train)
    basis = Basis.of(rows)
    design = Design.at(rows, basis, case.classes, place)
    problem = Problem(design, case.labels, case.classes, place != "file", StopRequest(), fast)
    same, decided = 0, 0
    for c, best in zip(choice.GRID[::4], reference.optima(choice.GRID[::4]), strict=True):
        weights = exact.fit(problem, c, Partial(tmp_path / f"{c}.json", key=""))
        equal, of = agreement(case, reference, weights, best, basis)
        same, decided = same + equal, decided + of
    assert same >= 0.999 * decided > 0, (case.name, same, decided)


@pytest.mark.parametrize("classes", [2, 3])
def test_c_is_that_of_scikit_learn_also_with_two_classes(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression

    chance = np.random.default_rng(0)
    labels = np.arange(90) % classes
    features = (chance.normal(size=(classes, 6))[labels] + chance.normal(size=(90, 6))).astype(np.float32)
    rows = Rows(features)
    design = Design.of(rows, Basis.of(rows), classes, True, torch.float64)
    solution = RegularizationPath(design, labels, classes, StopRequest()).solve(0.1, FINAL)
    reference = LogisticRegression(C=0.1, tol=1e-10, max_iter=5000).fit(features, labels)
    logits = torch.cat(list(design.logits(solution.weights))).numpy()
    theirs = reference.decision_function(features)
    ours = logits[:, 1] - logits[:, 0] if classes == 2 else logits - logits.mean(1, keepdims=True)
    assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()


def test_class_without_images_is_left_out_of_the_fit() -> None:
    """Its weights are zero, its intercept -inf; the others are those of a problem without it."""
    chance = np.random.default_rng(0)
    labels = np.array([0, 1, 3] * 20)
    rows = Rows(chance.normal(size=(60, 5)).astype(np.float32))
    design = Design.of(rows, Basis.of(rows), 4, True, torch.float64)
    weights = RegularizationPath(design, labels, 4, StopRequest()).solve(1.0, FINAL).weights
    others = RegularizationPath(design, np.array([0, 1, 2] * 20), 3, StopRequest()).solve(1.0, FINAL).weights
    assert torch.equal(weights[[0, 1, 3]], others)
    assert (weights[2, :-1] == 0).all()
    assert weights[2, -1] == -torch.inf


def test_search_does_not_end_before_the_classes_are_learned(tmp_path: Path) -> None:
    """The features have a large variance that tells nothing and a small one that tells the classes. The training loss
    falls, the validation loss grows and the accuracy stays at chance, until C is large enough for the small one."""
    chance = np.random.default_rng(1)
    labels = np.arange(120) % 5
    noise, signal = chance.normal(size=(120, 12)), np.eye(5)[labels] + 0.3 * chance.normal(size=(120, 5))
    rows = Rows((np.concatenate([noise, 0.003 * signal], 1) + 20).astype(np.float32))
    problem = Problem(Design.of(rows, Basis.of(rows), 5, True), labels, 5, True, StopRequest())
    for seed in range(3):
        search = exact.choose_c(problem, [validation_fold(labels, seed)], Partial(tmp_path / f"{seed}.json", key=""))
        assert search.validation_score is not None
        assert search.validation_score > 0.7
        assert search.trials[0].validation_score < 0.5


def test_search_ends_early_where_a_larger_c_is_clearly_worse(tmp_path: Path) -> None:
    """With many validation images, the best C is certain after few larger ones."""
    chance = np.random.default_rng(0)
    labels = np.arange(6000) % 3
    means = 0.35 * chance.normal(size=(3, 40))
    train = np.concatenate([means[labels] + chance.normal(size=(6000, 40)), 3 * chance.normal(size=(6000, 10))], 1)
    rows = Rows(train.astype(np.float32))
    problem = Problem(Design.of(rows, Basis.of(rows), 3, True), labels, 3, True, StopRequest())
    trials = exact.choose_c(problem, [few_for_training(labels)], Partial(tmp_path / "s.json", key="")).trials
    best = max(range(len(trials)), key=lambda number: trials[number].validation_score)
    assert best + 1 < len(trials) <= best + 1 + choice.PATIENCE < len(choice.GRID)


@pytest.mark.parametrize("place", ["rotated", "half"])
def test_bfloat16_reaches_the_accuracy_of_a_final_fit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It computes the changes of the gradient from one in float32. Two evaluations in float32 are the first and the
    check of the last; a third one is allowed for rounding errors that need a second round."""
    monkeypatch.setattr("trex.probing.memory.SMALL_PRODUCT", 0)
    monkeypatch.setattr("trex.probing.memory.SAMPLE", 100)
    chance = np.random.default_rng(3)
    labels = np.arange(3000) % 10
    features = 0.4 * chance.normal(size=(10, 60))[labels] + chance.normal(size=(len(labels), 60))
    rows = Rows(features.astype(np.float32))
    problem = Problem(Design.at(rows, Basis.of(rows), 10, place), labels, 10, True, StopRequest(), fast=True)
    path, types = problem.path(None, None), []
    evaluate = path._evaluate

    def counted(*given: Any) -> Point:
        types.append(path.type)
        return evaluate(*given)

    path.solve(1.0, SEARCH_LARGE)
    monkeypatch.setattr(path, "_evaluate", counted)
    path.solve_precisely(1.0, FINAL_FLOAT32)
    assert types.count(torch.bfloat16) >= 4, "the first gap is 1e-2, the last one 5e-5"
    assert types.count(torch.float32) <= 3
    solution = problem.precise_path(path.state()).solve(1.0, CONFIRMED)
    assert solution.iterations <= (0 if place == "rotated" else 1), "float16 rounds features"


def test_search_begins_where_classes_are_learned_or_no_more_is_learned() -> None:
    assert not choice.begins(2.0, 2.0, 2.0), "these features tell nothing: solve for all values"
    assert not choice.begins(1.999, 1.9999, 2.0), "ten times as much is learned with ten times C"
    assert not choice.begins(1.2, 1.6, 2.0)
    assert choice.begins(1.0, 1.5, 2.0)
    assert choice.begins(1.500, 1.503, 2.0), "the features cannot tell the classes better"


class InterruptedPartial(Partial):
    """Each process ends after it has stored one change."""

    def update(self, *, trials: Sequence[Trial] | None = None, own: object = None) -> None:
        super().update(trials=trials, own=own)
        self.write()
        raise Interrupted


@pytest.mark.parametrize(("noise", "wrong"), [(1.5, 0.5), (3.0, 0.0)])
def test_search_of_a_large_problem_begins_where_the_classes_are_learned(
    noise: float, wrong: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It skips smaller values of C, but goes back as long as the smallest one so far would be chosen, and so chooses as
    a search of the whole grid does. Interrupted after each trial, it is the same search."""
    monkeypatch.setattr("trex.probing.memory.SMALL_PRODUCT", 0)
    chance, labels = np.random.default_rng(1), np.arange(4000) % 4
    features = np.pad(chance.normal(size=(4, 20))[labels], ((0, 0), (0, 380)))
    features = (features + noise * chance.normal(size=features.shape)).astype(np.float32)
    labels = np.where(chance.random(len(labels)) < wrong, chance.integers(0, 4, len(labels)), labels)
    rows = Rows(features)
    problem = Problem(Design.at(rows, Basis.of(rows), 4, "rotated"), labels, 4, True, StopRequest(), fast=True)
    folds = [validation_fold(labels, 0)]
    begin = exact._begin(problem, folds).start
    assert begin > 2
    search = exact.choose_c(problem, folds, Partial(tmp_path / "whole.json", key=""))
    values = [trial.values["C"] for trial in search.trials]
    assert values == [c for c in choice.GRID if values[0] <= c <= values[-1]]
    assert values[0] < choice.GRID[begin], "these two go back"
    assert search.best["C"] > values[0] or values[0] == choice.GRID[0]

    for _ in range(3 * len(choice.GRID)):
        try:
            again = exact.choose_c(problem, folds, InterruptedPartial(tmp_path / "parts.json", key=""))
            break
        except Interrupted:
            continue
    assert [replace(trial, seconds=0) for trial in again.trials] == [replace(t, seconds=0) for t in search.trials]
    assert again.best == search.best

    monkeypatch.setattr(exact, "_begin", lambda *given: exact._Progress())
    assert exact.choose_c(problem, folds, Partial(tmp_path / "grid.json", key="")).best == search.best


@pytest.mark.parametrize("place", ["rotated", "half"])
def test_search_in_bfloat16_chooses_as_in_float32(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is sorted by class. Even so, each piece has images of all classes, because bfloat16 rounds its sum.

    The scores of both types differ from those of the optimum by a tenth of a standard error (root mean square; the rule
    of choice allows half of one). A single score may differ by more, on each processor by another one.
    """
    monkeypatch.setattr("trex.probing.memory.SMALL_PRODUCT", 0)
    monkeypatch.setattr("trex.probing.memory.LEAST_ROWS", 128)
    monkeypatch.setattr("trex.probing.memory.LOGITS", 0)
    chance = np.random.default_rng(3)
    labels = np.repeat(np.arange(8), 250)
    features = 0.5 * chance.normal(size=(8, 48))[labels] + chance.normal(size=(len(labels), 48))
    labels = np.where(chance.random(len(labels)) < 0.15, chance.integers(0, 8, len(labels)), labels)
    rows = Rows(features.astype(np.float32))
    design = Design.at(rows, Basis.of(rows), 8, place)
    equal = 0
    differences: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(4):
        fold, searches = validation_fold(labels, seed), []
        for fast in differences:
            problem = Problem(design, labels, 8, True, StopRequest(), fast)
            path = problem.path(fold[0], None)
            pieces = torch.split(path.labels, design.piece)
            assert (path.type, len(pieces)) == (torch.bfloat16 if fast else torch.float32, 13)
            assert all(len(piece.unique()) == 8 for piece in pieces) is fast
            searches.append(exact.choose_c(problem, [fold], Partial(tmp_path / f"{seed}_{fast}.json", key="")))
        optimal = RegularizationPath(design.read_as(torch.float64).subset(fold[0]), labels[fold[0]], 8, StopRequest())
        images = len(fold[1])
        best = max(trial.validation_score for search in searches for trial in search.trials)
        error = (best * (1 - best) / images) ** 0.5
        for search, found in zip(searches, differences.values(), strict=True):
            for trial in search.trials:
                if trial.validation_score >= best - 2 * error:  # the others are not chosen
                    predicted = design.subset(fold[1]).predict(optimal.solve(trial.values["C"], Accuracy(1e-5)).weights)
                    found.append((trial.validation_score - (predicted == labels[fold[1]]).mean()) / error)
        equal += searches[0].best == searches[1].best
    assert equal >= 3
    for found in differences.values():
        assert len(found) > 20
        assert np.mean(np.square(found)) ** 0.5 < 0.2


def few_for_training(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(100), np.arange(100, len(labels))
