"""Intervals and tests over test images: equal to known formulas, and right as often as they claim."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_ind, ttest_rel, wilcoxon

from trex.reporting.statistics import (
    LEVEL,
    SMALLEST_P,
    Interval,
    SeedVariance,
    difference_interval,
    holm,
    mean_interval,
    mean_of_intervals,
    normal_test,
    share_interval,
    sign_flip_test,
)

Z = 1.959963984540054


@pytest.mark.parametrize(("hits", "images"), [(0, 20), (1, 50), (180, 200), (595, 600), (600, 600), (1, 1)])
def test_interval_of_one_seed_is_wilsons(hits: int, images: int) -> None:
    found = share_interval(np.repeat([1.0, 0.0], [hits, images - hits]))
    expected = binomtest(hits, images).proportion_ci(LEVEL, method="wilson")
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high))


def test_seeds_that_agree_count_once_and_seeds_that_disagree_narrow_the_interval() -> None:
    chance = np.random.default_rng(0)
    one, other = (chance.random((2, 500)) < 0.8).astype(float)
    alone = share_interval(one)
    assert share_interval((one + one) / 2) == alone
    assert share_interval((one + other) / 2).half == pytest.approx(alone.half / 2**0.5, rel=0.05)


def test_interval_of_the_mean_per_class_is_wilsons_if_the_classes_are_equally_large_and_accurate() -> None:
    values, classes = np.tile([1.0, 1.0, 1.0, 0.0], 200), np.repeat(np.arange(10), 80)
    plain, stratified = share_interval(values), share_interval(values, classes)
    assert stratified.half == pytest.approx(plain.half, rel=0.01)


def test_class_with_a_single_image_does_not_hide_its_variance() -> None:
    chance = np.random.default_rng(0)
    classes = np.concatenate([np.repeat(np.arange(20), 20), [20, 21, 22]])
    values = (chance.random(len(classes)) < 0.7).astype(float)
    variance = np.mean([values[classes == k].var(ddof=1) for k in range(20)])
    expected = (20 * variance / 20 + 3 * variance) ** 0.5 / 23
    assert share_interval(values, classes).half == pytest.approx(Z * expected, rel=0.05)


@pytest.mark.parametrize(("gained", "lost"), [(5, 0), (0, 7), (12, 7), (1, 1), (40, 10)])
def test_test_of_one_seed_is_mcnemars_exact_test(gained: int, lost: int) -> None:
    differences = np.repeat([1, -1, 0], [gained, lost, 600 - gained - lost])
    assert sign_flip_test(differences) == pytest.approx(binomtest(gained, gained + lost).pvalue)


def test_test_of_several_seeds_equals_the_enumeration_of_all_signs() -> None:
    chance = np.random.default_rng(0)
    signs = np.array(list(itertools.product([-1, 1], repeat=12)))
    for _ in range(30):
        differences = chance.integers(-3, 5, 12)
        expected = (np.abs(signs @ np.abs(differences)) >= abs(differences.sum())).mean()
        assert sign_flip_test(differences) == pytest.approx(expected)
        assert sign_flip_test(3 * differences) == pytest.approx(expected)


def test_test_of_ranks_equals_wilcoxons_exact_test() -> None:
    """Wilcoxon's signed-rank test is the same permutation test of the signed ranks."""
    differences = np.array([1, -2, 3, 4, -5, 6, 7, 8, 9, 10, -11, 12])
    assert sign_flip_test(differences) == pytest.approx(wilcoxon(differences, method="exact").pvalue)


def test_no_difference_has_p_of_one_and_a_clear_one_a_small_but_positive_p() -> None:
    nothing = np.zeros(50, int)
    assert (sign_flip_test(nothing), normal_test(nothing.astype(float))) == (1.0, 1.0)
    everything = np.full(5000, 3)
    assert sign_flip_test(everything) == normal_test(everything.astype(float)) == SMALLEST_P


def test_normal_test_is_close_to_the_exact_one() -> None:
    for gained in (3, 6, 12, 20):
        differences = np.repeat([1, -1, 0], [gained + 8, 8, 600])
        assert normal_test(differences.astype(float)) == pytest.approx(sign_flip_test(differences), rel=0.25)


def test_interval_of_a_difference_is_bonett_and_prices() -> None:
    """Their formula for paired proportions, with 5 of 600 images that only one of both classifies correctly."""
    found = difference_interval(np.repeat([1.0, 0.0], [5, 595]))
    ours, theirs = 6 / 602, 1 / 602
    half = Z * ((ours + theirs - (ours - theirs) ** 2) / 602) ** 0.5
    assert (found.low, found.high) == (pytest.approx(5 / 602 - half), pytest.approx(5 / 602 + half))


def test_mean_over_datasets_adds_the_variances() -> None:
    found = mean_of_intervals([Interval(0.1, 0.3), Interval(-0.1, 0.1)])
    assert (found.low + found.high) / 2 == pytest.approx(0.1)
    assert found.half == pytest.approx((0.1**2 + 0.1**2) ** 0.5 / 2)


def test_interval_of_a_mean_of_real_numbers_is_walds() -> None:
    values = np.random.default_rng(0).normal(2, 3, 400)
    found = mean_interval(values)
    assert found.half == pytest.approx(Z * values.std(ddof=1) / 20)
    assert mean_interval(np.ones(1)) == Interval(1.0, 1.0)


def test_holms_p_values_are_those_of_his_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_hundred_comparisons_of_fifty_thousand_images_take_seconds() -> None:
    chance = np.random.default_rng(0)
    differences = [chance.integers(-5, 6, 50_000) for _ in range(20)]
    start = time.monotonic()
    for one in differences:
        sign_flip_test(one)
        difference_interval(one / 5)
        share_interval(np.abs(one) / 5)
    assert time.monotonic() - start < 20, "twenty of them, on a slow machine"


# ---- how often they are right


def accuracies(
    chance: np.random.Generator, images: int, seeds: int, level: float, gain: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The share of seeds that classify each image correctly, (images,), for two runs.

    Each image has a difficulty that both runs share and one of its own for each run, both on the logit scale. The
    runs are equally good if `gain` is 0.
    """
    difficulty = chance.normal(0, 2, images)
    found = []
    for shift in (0.0, gain):
        chances = 1 / (1 + np.exp(-(level + shift + difficulty + chance.normal(0, 1, images))))
        found.append((chance.random((seeds, images)) < chances).mean(0))
    return found[0], found[1]


#: Images, seeds, level and gain. Accuracies between 64 and 98 %.
SETTINGS = [(100, 1, 3, 0), (600, 1, 2, 0.3), (600, 5, 2, 0), (100, 5, 4, 0), (200, 5, 6, 0.5), (3000, 5, 1, 0.1)]


@pytest.mark.slow
@pytest.mark.parametrize(("images", "seeds", "level", "gain"), SETTINGS)
def test_intervals_cover_the_truth_in_93_percent_and_equal_runs_differ_in_at_most_5(
    images: int, seeds: int, level: float, gain: float
) -> None:
    """1500 simulated test sets. The standard error of a share near 95 % is 0.56 points."""
    chance = np.random.default_rng(7)
    true = [one.mean() for one in accuracies(chance, 2_000_000, 1, level, gain)]
    covered, covered_difference, rejected = [], [], []
    for _ in range(1500):
        one, other = accuracies(chance, images, seeds, level, gain)
        alone, both = share_interval(other), difference_interval(other - one)
        covered.append(alone.low <= true[1] <= alone.high)
        covered_difference.append(both.low <= true[1] - true[0] <= both.high)
        rejected.append(sign_flip_test(np.rint(seeds * (other - one)).astype(int)) <= 0.05)
    assert np.mean(covered) >= 0.93
    assert np.mean(covered_difference) >= 0.93
    assert gain or np.mean(rejected) <= 0.05 + 0.015


def seed_shares(chance: np.random.Generator, images: int, seeds: int, spread: float) -> np.ndarray:
    """What two equally good runs classify correctly, (2, seeds, images) bool. Each seed of a run has an accuracy of its
    own: its level on the logit scale has this standard deviation."""
    level = 1 + chance.normal(0, 2, images) + chance.normal(0, spread, (2, seeds, 1))
    return chance.random((2, seeds, images)) < 1 / (1 + np.exp(-level))


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.1), (5, 0.05), (5, 0.2)])
def test_runs_whose_seeds_differ_are_significantly_different_in_at_most_5_percent(seeds: int, spread: float) -> None:
    """1500 simulated pairs with 1000 images. Without the variance over the seeds, 8 to 45 % would be significant."""
    chance = np.random.default_rng(5)
    covered, rejected, without = [], [], []
    for _ in range(1500):
        one, other = seed_shares(chance, 1000, seeds, spread).astype(np.int64)
        over_seeds = SeedVariance.of(list(one.mean(1)), list(other.mean(1)), paired=False)
        differences = one.sum(0) - other.sum(0)
        exact = sign_flip_test(differences)
        found = difference_interval(differences / seeds, over_seeds)
        covered.append(found.low <= 0 <= found.high)
        rejected.append(max(exact, normal_test(differences / seeds, over_seeds)) <= 0.05)
        without.append(exact <= 0.05)
    assert np.mean(covered) >= 0.95
    assert np.mean(rejected) <= 0.05
    assert np.mean(without) > np.mean(rejected)
    assert spread < 0.2 or np.mean(without) > 0.2


def test_variance_over_seeds_is_that_of_students_and_welchs_t_tests() -> None:
    """With so many images that their variance does not count, the test is the t-test over the seeds."""
    one, other = [0.72, 0.75, 0.71, 0.74], [0.70, 0.71, 0.66, 0.69]
    images = np.full(10**7, np.mean(one) - np.mean(other))
    for paired, reference in ((True, ttest_rel(one, other)), (False, ttest_ind(one, other, equal_var=False))):
        seeds = SeedVariance.of(one, other, paired)
        assert normal_test(images, seeds) == pytest.approx(reference.pvalue, rel=0.01)
        bounds = reference.confidence_interval()
        found = difference_interval(images, seeds)
        assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high), abs=1e-3)
    assert SeedVariance.of([0.7], [0.6], paired=True).variance == 0
    assert SeedVariance.of([0.7], [0.6, 0.8], paired=False) == SeedVariance(pytest.approx(0.01), 1)


@pytest.mark.parametrize("sizes", [(10,) * 20, (100, 50, 20, 10, 5, 2, 1, 1)], ids=["balanced", "imbalanced"])
def test_interval_of_the_mean_per_class_covers_the_truth(sizes: tuple[int, ...]) -> None:
    chance = np.random.default_rng(3)
    classes = np.repeat(np.arange(len(sizes)), sizes)
    chances = np.linspace(0.6, 0.95, len(sizes))
    covered = []
    for _ in range(2000):
        values = (chance.random(len(classes)) < chances[classes]).astype(float)
        found = share_interval(values, classes)
        covered.append(found.low <= chances.mean() <= found.high)
    assert np.mean(covered) >= 0.93
