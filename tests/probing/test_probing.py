"""Probes: folds, the certified solver, the published search, k-NN, result files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from sklearn.datasets import load_digits

from jobs.plan.runs import save_config
from tests.stopping import StopAfter
from trex.config import Config, load
from trex.distributed import Ranks
from trex.errors import Interrupted
from trex.features.extract import extract
from trex.interruption import StopRequest
from trex.probing import exact, published
from trex.probing.choice import GRID
from trex.probing.design import Basis, Design
from trex.probing.exact import Problem
from trex.probing.folds import few_shot, few_shot_folds, validation_fold
from trex.probing.memory import is_small
from trex.probing.partial import Partial
from trex.probing.predictions import Outcomes
from trex.probing.probe import probe
from trex.probing.rows import Rows
from trex.probing.scores import scores
from trex.probing.solution import APPROACH, SEARCH
from trex.probing.solver import RegularizationPath
from trex.records.probe_result import ImageCounts, ProbeResult
from trex.records.run_dir import RunDir


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.from_numpy(x.astype(np.float32) / 16), torch.from_numpy(y)


def synthetic(n: int, d: int, k: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features similar to an encoder's: non-negative, with a power-law spectrum and overlapping classes."""
    chance = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, d + 1).float() ** -0.7
    labels = torch.randint(k, (n,), generator=chance)
    means = torch.randn(k, d, generator=chance) * scale * 0.7
    mixing = torch.linalg.qr(torch.randn(d, d, generator=chance))[0]
    return ((means[labels] + torch.randn(n, d, generator=chance) * scale) @ mixing).relu(), labels


def design_of(features: torch.Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Design:
    rows = Rows(features.numpy())
    return Design.of(rows, Basis.of(rows), classes, True, dtype)


@pytest.fixture
def partial(tmp_path: Path) -> Partial:
    return Partial(tmp_path / "seed_0.json", key="")


def test_validation_takes_a_fifth_of_each_class_and_never_its_only_image() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 7, 2, 1])
    train, validation = validation_fold(labels, seed=0)
    assert np.bincount(labels[validation], minlength=4).tolist() == [20, 1, 1, 0]
    assert sorted([*train, *validation]) == list(range(110))


def test_validation_images_of_a_class_do_not_depend_on_other_classes() -> None:
    with_small = validation_fold(np.array([0] * 50 + [1] * 2 + [2] * 50), seed=1)[1]
    without = validation_fold(np.array([0] * 50 + [2] * 50), seed=1)[1]
    assert [i for i in with_small if i < 50] == [i for i in without if i < 50]
    assert [i - 2 for i in with_small if i >= 52] == [i for i in without if i >= 50]


def test_same_seed_gives_the_same_validation_images_and_another_seed_others() -> None:
    labels = np.arange(200) % 5
    assert np.array_equal(validation_fold(labels, 3)[1], validation_fold(labels, 3)[1])
    assert not np.array_equal(validation_fold(labels, 3)[1], validation_fold(labels, 4)[1])


def test_few_shot_takes_that_many_images_per_class_and_all_of_a_smaller_class() -> None:
    labels = np.repeat([0, 1, 2], [20, 9, 3])
    assert np.bincount(labels[few_shot(labels, 5, 0)]).tolist() == [5, 5, 3]


def test_few_shot_folds_validate_each_image_once() -> None:
    labels = np.repeat([0, 1, 2], [5, 5, 1])
    folds = few_shot_folds(labels, 0)
    assert sorted(np.concatenate([validation for _, validation in folds])) == list(range(10))
    assert all(set(labels[train]) == {0, 1, 2} for train, _ in folds)
    assert few_shot_folds(np.arange(4), 0) == []


def test_rotation_preserves_distances_and_decorrelates() -> None:
    features, _ = synthetic(300, 40, 5)
    basis = Basis.of(Rows(features.numpy()))
    rotated = basis.rotate(features, torch.float64)
    distances = torch.cdist(rotated[:9, :-1], rotated[:9, :-1])
    assert torch.allclose(distances * basis.scale, torch.cdist(features[:9], features[:9]).double(), atol=1e-4)
    assert basis.values.sum() == pytest.approx(1)
    assert rotated[:, :-1].norm(dim=1).max() == pytest.approx(basis.radius)
    covariance = rotated[:, :-1].T @ rotated[:, :-1] / len(rotated)
    assert torch.allclose(covariance, torch.diag(basis.values), atol=1e-4)


def float64_optimum(design: Design, labels: torch.Tensor, start: torch.Tensor, c: float) -> tuple[float, float]:
    """The objective at `start`, and its minimum in float64, found from there with scipy's L-BFGS."""
    inputs = design.rotated.double()
    strength = 1 / (c * len(labels) * design.basis.scale**2)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.from_numpy(flat).view(start.shape).requires_grad_()
        value = F.cross_entropy(inputs @ w.T, labels) + strength / 2 * w[:, :-1].square().sum()
        value.backward()
        return value.item(), w.grad.numpy().ravel()

    x = start.double().numpy().ravel()
    found = minimize(
        objective,
        x,
        jac=True,
        method="L-BFGS-B",
        options=dict(maxiter=3000, maxfun=6000, ftol=1e-15, gtol=1e-12, maxcor=40),
    )
    return objective(x)[0], found.fun


@pytest.mark.slow
@pytest.mark.parametrize("data", ["digits", "synthetic 2048-d"])
def test_path_is_within_a_thousandth_of_the_float64_optimum(digits, data: str) -> None:
    features, labels = digits if data == "digits" else synthetic(1500, 2048, 12)
    classes = int(labels.max()) + 1
    design = design_of(features, classes, torch.float64 if is_small(*features.shape, classes) else torch.float32)
    path = RegularizationPath(design, labels.numpy(), classes, StopRequest())
    for c in GRID:
        solution = path.solve(c)
        assert solution.gap <= SEARCH.gap
        if c in (1e-5, 1.0, 1e3, 1e6):
            value, optimum = float64_optimum(design, labels, solution.weights, c)
            assert (value - optimum) / optimum <= 1e-3, c
            assert solution.objective == pytest.approx(value, rel=1e-4)


def test_solver_agrees_with_scikit_learn_where_scikit_learn_converges(digits) -> None:
    """The weights differ by at most what the certified gap allows: f(W) - f* >= λ/2 ‖W - W*‖²."""
    from sklearn.linear_model import LogisticRegression

    features, labels = digits
    design = design_of(features, 10)
    solution = RegularizationPath(design, labels.numpy(), 10, StopRequest()).solve(0.1)
    reference = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(features.numpy(), labels.numpy())
    ours = solution.weights[:, :-1].double() @ design.basis.vectors.T
    distance = (ours - torch.from_numpy(reference.coef_)).square().sum()
    allowed = 2 * SEARCH.gap * solution.objective * 0.1 * len(labels)
    assert 0 < distance < allowed
    assert (design.predict(solution.weights) == reference.predict(features.numpy())).mean() > 0.998


def test_chosen_c_is_the_smallest_within_half_a_standard_error(digits, partial) -> None:
    features, labels = digits
    problem = Problem(design_of(features, 10), labels.numpy(), 10, keep_logits=True, stop=StopRequest())
    choice = exact.choose_c(problem, [validation_fold(labels.numpy(), 0)], partial)
    accuracies = [trial.validation_score for trial in choice.trials]
    best = max(accuracies)
    half = 0.5 * math.sqrt(best * (1 - best) / 358)
    first = next(trial for trial in choice.trials if trial.validation_score >= best - half - 1e-9)
    assert choice.best == first.values
    assert best > 0.95
    assert choice.edge is None


def test_scores_leave_out_classes_without_test_images() -> None:
    predicted, ones = np.array([0, 0, 2, 1]), np.ones(4, np.float32)
    found = scores(np.array([0, 0, 0, 1]), Outcomes(predicted, np.array([0, 0, 1, 0], np.uint8), -ones, ones), 3)
    assert found.top1 == 0.75
    assert found.mean_per_class == pytest.approx((2 / 3 + 1) / 2)
    assert (found.per_class[2], found.classes_without_test_images) == (None, 1)
    assert found.confusion == ((0, 0, 2), (0, 2, 1), (1, 1, 1))


@pytest.mark.parametrize("counts", [[500] * 5 + [300] * 5, [80] * 40], ids=["capped", "balanced"])
def test_path_does_not_end_on_its_first_plateau(partial, counts: list[int]) -> None:
    """With features of unit length and several largest classes, the validation accuracy is constant over more than 1.5
    decades of small C, because nothing is learned yet."""
    chance = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), counts)
    features = chance.normal(size=(len(counts), 64))[labels] + 2 * chance.normal(size=(len(labels), 64))
    rows = Rows(features.astype(np.float32), normalize=True)
    design = Design.of(rows, Basis.of(rows), len(counts), True)
    problem = Problem(design, labels, len(counts), True, StopRequest())
    fold = validation_fold(labels, 0)
    choice = exact.choose_c(problem, [fold], partial)
    solver = RegularizationPath(design.subset(fold[0]), labels[fold[0]], len(counts), StopRequest())
    hits = [design.subset(fold[1]).predict(solver.solve(c).weights) == labels[fold[1]] for c in GRID]
    assert choice.validation_score is not None
    assert choice.validation_score >= max(hit.mean() for hit in hits) - 0.01
    assert choice.best["C"] > GRID[0]
    assert all(trial.gap <= SEARCH.gap for trial in choice.trials[:-1])
    assert choice.trials[-1].gap <= APPROACH.gap, "the search may end with a rough solution that is clearly worse"


@pytest.mark.parametrize("shape", [(40, 8), (20, 64)])
def test_constant_features_predict_the_most_frequent_class(partial, shape: tuple[int, int]) -> None:
    features, labels = np.full(shape, 0.25, np.float32), np.arange(shape[0]) % 3 % 2
    rows = Rows(features)
    design = Design.of(rows, Basis.of(rows), 2, True)
    problem = Problem(design, labels, 2, True, StopRequest())
    choice = exact.choose_c(problem, [validation_fold(labels, 0)], partial)
    predicted = design.predict(exact.fit(problem, choice.best["C"], partial))
    assert (predicted == np.bincount(labels).argmax()).all()


def test_dataset_with_a_single_class_is_classified_correctly(partial) -> None:
    rows = Rows(np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32))
    design = Design.of(rows, Basis.of(rows), 1, True)
    problem = Problem(design, np.zeros(30, np.int64), 1, True, StopRequest())
    choice = exact.choose_c(problem, [validation_fold(problem.labels, 0)], partial)
    assert choice.validation_score == 1.0
    assert (design.predict(exact.fit(problem, choice.best["C"], partial)) == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("data", ["digits", "synthetic 2048-d"])
def test_published_search_equals_scikit_learn_with_optuna(digits, partial, data: str) -> None:
    """Trials, choice and accuracy equal those of the two libraries called directly on the same fold and seed."""
    import optuna
    from sklearn.linear_model import LogisticRegression

    features, labels = (tensor.numpy() for tensor in (digits if data == "digits" else synthetic(800, 2048, 12)))
    fold = validation_fold(labels, 0)
    ranges = {"C": published.C_RANGE}
    rows = Rows(features)
    choice = published.choose(published.fit_lbfgs, ranges, rows, labels, fold, 0, StopRequest(), partial, trials=8)

    def accuracy(trial: optuna.Trial) -> float:
        c = trial.suggest_float("C", 1e-5, 1e6, log=True)
        model = LogisticRegression(C=c, max_iter=2000).fit(features[fold[0]], labels[fold[0]])
        return float((model.predict(features[fold[1]]) == labels[fold[1]]).mean())

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(accuracy, n_trials=8)
    assert choice.best["C"] == pytest.approx(study.best_params["C"])
    assert choice.validation_score == study.best_value
    assert [trial.validation_score for trial in choice.trials] == [trial.value for trial in study.trials]


def test_sgd_of_large_datasets_learns(digits, monkeypatch) -> None:
    monkeypatch.setattr(published, "EPOCHS", 20)
    features, labels = digits[0].numpy(), digits[1].numpy()
    fit = published.sgd_fit(10, 0, StopRequest())
    predict = fit(Rows(features[:1400], normalize=True), labels[:1400], {"lr": 30.0, "weight_decay": 1e-7})
    assert (predict(Rows(features[1400:], normalize=True)) == labels[1400:]).mean() > 0.85


@pytest.fixture
def features_of_pixels(tmp_path: Path) -> tuple[RunDir, Config]:
    path = tmp_path / "c.yaml"
    path.write_text(
        "extract: {datasets: [digits_unseen], weights: pixels, resize: 8, crop: 8}\n"
        "probe: {seeds: 2, kinds: [exact, exact-5shot, knn20]}\ndata: {workers: 0}\n"
    )
    config = load(path, Config, [f"runs={tmp_path}/runs"])
    run = RunDir.of(config)
    save_config(run, config)
    extract(run, config, "digits_unseen", Ranks(), StopRequest())
    return run, config


def results(run: RunDir) -> dict[str, ProbeResult]:
    paths = run.root.glob("probes/**/*.json")
    return {str(path.relative_to(run.root / "probes")): ProbeResult.read(path) for path in paths}


def test_one_result_per_kind_and_seed_with_all_trials(features_of_pixels) -> None:
    run, config = features_of_pixels
    probe(run, config, "digits_unseen", range(2), StopRequest())
    found = results(run)
    kinds = ("exact", "exact-5shot", "knn20")
    seeds = {"exact": 2, "exact-5shot": 2, "knn20": 1}
    assert sorted(found) == sorted(
        f"digits_unseen/{kind}/seed_{seed}.json" for kind in kinds for seed in range(seeds[kind])
    )
    one = found["digits_unseen/exact/seed_0.json"]
    assert one.test.top1 > 0.9
    assert one.counts == ImageCounts(train=344, validation=84, test=105)
    assert set(one.search.best) == set(one.search.trials[0].values) == {"C"}
    assert None not in (one.search.trials[0].train_loss, one.search.trials[0].gap)
    assert found["digits_unseen/exact-5shot/seed_0.json"].counts == ImageCounts(train=5 * 3, validation=0, test=105)
    assert found["digits_unseen/knn20/seed_0.json"].counts == ImageCounts(train=428, validation=0, test=105)


def test_probes_are_deterministic_and_existing_results_are_kept(features_of_pixels) -> None:
    run, config = features_of_pixels
    probe(run, config, "digits_unseen", range(2), StopRequest())
    before = {path: path.stat().st_mtime_ns for path in run.root.glob("probes/**/*.json")}
    first = results(run)
    probe(run, config, "digits_unseen", range(2), StopRequest())
    assert before == {path: path.stat().st_mtime_ns for path in run.root.glob("probes/**/*.json")}
    for path in before:
        path.unlink()
    probe(run, config, "digits_unseen", range(2), StopRequest())
    assert {k: v.test for k, v in first.items()} == {k: v.test for k, v in results(run).items()}


def test_result_from_other_features_is_computed_again(features_of_pixels) -> None:
    run, config = features_of_pixels
    probe(run, config, "digits_unseen", [0], StopRequest())
    path = run.probe("digits_unseen", "exact", 0)
    stale = json.loads(path.read_text())
    stale["provenance"]["trainval_digest"] = "other"
    path.write_text(json.dumps(stale))
    probe(run, config, "digits_unseen", [0], StopRequest())
    assert ProbeResult.read(path).provenance.trainval_digest != "other"


@pytest.mark.parametrize("family", ["exact", "published"])
@pytest.mark.parametrize("sgd", ["{}", "{digits_unseen: true}"])
def test_one_image_per_class_is_fitted_without_a_search(
    features_of_pixels, tmp_path: Path, monkeypatch, family: str, sgd: str
) -> None:
    monkeypatch.setattr(published, "EPOCHS", 3)
    monkeypatch.setattr(published, "C_RANGE", (1e-2, 1e2))
    run, _ = features_of_pixels
    settings = (f"runs={tmp_path}/runs", f"probe.kinds=[{family}-1shot]", f"probe.sgd={sgd}")
    config = load(tmp_path / "c.yaml", Config, settings)
    probe(run, config, "digits_unseen", [0], StopRequest())
    one = results(run)[f"digits_unseen/{family}-1shot/seed_0.json"]
    assert one.counts.validation == 0
    assert (one.search.trials, one.search.validation_score, one.search.edge) == ((), None, None)
    assert one.test.top1 > 0.5
    if family == "published" and sgd == "{}":
        assert one.search.best == {"C": 1.0}


def test_interrupted_probe_keeps_only_complete_results(features_of_pixels) -> None:
    run, config = features_of_pixels

    with pytest.raises(Interrupted):
        probe(run, config, "digits_unseen", range(2), StopAfter(700))
    assert 1 <= len(results(run)) < 6
    assert all(result.test.top1 > 0 for result in results(run).values())
