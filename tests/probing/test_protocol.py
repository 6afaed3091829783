"""The rules of the published probes, each compared with the paper's text or a direct computation."""

from __future__ import annotations

import math
import warnings
from itertools import groupby
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch.optim.optimizer import register_optimizer_step_pre_hook

from trex.config.schema import DEFAULT_DATASETS, ProbeConfig
from trex.datasets.registry import known
from trex.interruption import StopRequest
from trex.probing import published
from trex.probing.choice import GRID
from trex.probing.folds import validation_fold
from trex.probing.partial import Partial
from trex.probing.rows import Rows
from trex.probing.treatment import Treatment

#: A fifth of 1 … 30 images, rounded down; never none of two or more, and never the only one.
FIFTHS = [0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 6]


@pytest.mark.parametrize(("images", "validated"), [*enumerate(FIFTHS, start=1), (732, 146), (1299, 259), (1300, 260)])
def test_a_fifth_of_each_class_validates_and_a_single_image_trains(images: int, validated: int) -> None:
    labels = np.repeat([0, 1, 2], [100, images, 40])
    train, validation = validation_fold(labels, seed=0)
    assert np.bincount(labels[validation], minlength=3).tolist() == [20, validated, 8]
    assert sorted([*train, *validation]) == list(range(len(labels)))


def test_each_seed_draws_its_validation_images_uniformly() -> None:
    labels = np.repeat([0, 1], [50, 10])
    times = np.zeros(60)
    for seed in range(500):
        times[validation_fold(labels, seed)[1]] += 1
    expected = 500 * 0.2
    assert np.abs(times - expected).max() < 5 * math.sqrt(500 * 0.2 * 0.8)


def test_c_goes_from_1e_minus_5_to_1e6_in_both_searches() -> None:
    assert published.C_RANGE == (1e-5, 1e6)
    assert (GRID[0], GRID[-1]) == (1e-5, 1e6)
    steps = np.diff(np.log10(GRID))
    assert np.allclose(steps, 0.5, atol=1e-5)


def test_datasets_fitted_by_sgd_and_l2_normalized_are_those_of_the_paper() -> None:
    large = {"in1k", "cog_l1", "cog_l2", "cog_l3", "cog_l4", "cog_l5", "inat2018", "inat2019"}
    assert large < set(DEFAULT_DATASETS)
    treatments = {name: Treatment.of(name, ProbeConfig()) for name in known()}
    assert {name for name, treatment in treatments.items() if treatment.sgd} == large
    assert {name for name, treatment in treatments.items() if treatment.normalize} == large


def test_config_overrides_how_a_dataset_is_treated() -> None:
    config = ProbeConfig(normalize={"in1k": False, "birds": True}, sgd={"in1k": False, "birds": True})
    found = [Treatment.of(name, config) for name in ("in1k", "birds", "inat2018", "pets")]
    assert [treatment.normalize for treatment in found] == [False, True, True, False]
    assert [treatment.sgd for treatment in found] == [False, True, True, False]


def features(rows: int = 2500) -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return np.resize(x, (rows, 64)).astype(np.float32), np.resize(y, rows)


def test_sgd_of_large_datasets_follows_the_paper() -> None:
    """Momentum .9, weight decay on weight and bias, batches of 1024, 100 epochs. Epochs 0 and 1 run at lr, epoch
    e = 2, 3, … at lr/2 · (1 + cos(π (e - 1)/100))."""
    x, y = features()
    seen: list[tuple[float, float, float, int]] = []

    def record(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        [group] = optimizer.param_groups
        seen.append((group["lr"], group["momentum"], group["weight_decay"], len(group["params"])))

    handle = register_optimizer_step_pre_hook(record)
    try:
        published.sgd_fit(10, 0, StopRequest())(Rows(x), y, {"lr": 3.0, "weight_decay": 1e-6})
    finally:
        handle.remove()
    assert len(seen) == 100 * math.ceil(2500 / 1024)
    assert {values[1:] for values in seen} == {(0.9, 1e-6, 2)}
    rates = [rate for rate, *_ in seen]
    expected = [3.0] + [1.5 * (1 + math.cos(math.pi * e / 100)) for e in range(99)]
    assert rates[::3] == rates[1::3] == rates[2::3] == pytest.approx(expected)
    assert [len(list(run)) for _, run in groupby(rates)][:2] == [6, 3]


def test_features_of_large_datasets_are_l2_normalized() -> None:
    """The length of a feature affects neither the fit nor the prediction."""
    x, y = features(300)
    stretch = np.random.default_rng(0).uniform(0.1, 10, (300, 1)).astype(np.float32)
    values = {"lr": 10.0, "weight_decay": 1e-8}
    short, long = Rows(x, normalize=True), Rows(x * stretch, normalize=True)
    plain = published.sgd_fit(10, 0, StopRequest())(short, y, values)
    stretched = published.sgd_fit(10, 0, StopRequest())(long, y, values)
    assert (plain(short) == stretched(long)).mean() > 0.99


@pytest.mark.parametrize("c", [1e-4, 1.0])
def test_lbfgs_is_that_of_scikit_learn_on_unchanged_features(c: float) -> None:
    x, y = features(300)
    reference = LogisticRegression(C=c, max_iter=2000).fit(x, y)
    stretched = LogisticRegression(C=c, max_iter=2000).fit(x / 100, y)
    test = load_digits().data[300:].astype(np.float32)
    found = published.fit_lbfgs(Rows(x), y, {"C": c})(Rows(test))
    assert np.array_equal(found, reference.predict(test))
    assert not np.array_equal(found, stretched.predict(test / 100))


@pytest.mark.parametrize("values", [1, 2])
def test_search_is_optunas_tpe_of_30_trials(values: int, tmp_path: Path) -> None:
    """The trials equal those of Optuna called directly on the same objective; with two values TPE is multivariate."""
    ranges = {"lr": published.LR_RANGE, "weight_decay": published.DECAY_RANGE}
    assert (ranges["lr"], ranges["weight_decay"]) == ((0.1, 100), (1e-12, 1e-4))
    ranges = dict(list(ranges.items())[:values])
    labels = np.arange(1000) % 2

    def correct_images(lr: float, decay: float = 1e-7) -> int:
        """How many of 200 validation images the simulated fit classifies correctly: most at lr 5, decay 1e-7."""
        return int(200 / (1 + abs(math.log10(lr / 5)) + abs(math.log10(decay / 1e-7)) / 5))

    def fit(train: Rows, targets: np.ndarray, chosen: dict[str, float]):
        assert len(train) == len(targets) == 800
        right = correct_images(*chosen.values())
        return lambda images: np.where(np.arange(200) < right, images.take(slice(None))[:, 0] % 2, 2).astype(int)

    rows = Rows(np.arange(1000, dtype=np.float32)[:, None])
    partial = Partial(tmp_path / "seed_3.json", key="")
    found = published.choose(fit, ranges, rows, labels, validation_fold(labels, 0), 3, StopRequest(), partial)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=3, multivariate=values > 1)
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def accuracy(trial: optuna.Trial) -> float:
        values = (trial.suggest_float(key, low, high, log=True) for key, (low, high) in ranges.items())
        return correct_images(*values) / 200

    study.optimize(accuracy, n_trials=30)
    assert [trial.validation_score for trial in found.trials] == [trial.value for trial in study.trials]
    assert found.best == pytest.approx(study.best_params)
