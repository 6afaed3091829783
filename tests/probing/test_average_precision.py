"""Average precision: VOC 2007's 11 points on a case by hand, the area against scikit-learn, and resampled images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from trex.probing.average_precision import average_precisions, mean_average_precision, ranks, replicates


def precisions(labels: list[int], scores: list[float]) -> tuple[float, float]:
    """11 points and area of one class."""
    found = average_precisions(np.array(labels, np.int8)[:, None], ranks(np.array(scores)[:, None]))
    return float(found[0, 0, 0]), float(found[1, 0, 0])


def drawn(images: int = 400, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Labels, some of them 0, and scores with many ties."""
    chance = np.random.default_rng(0)
    labels = np.where(chance.random((images, classes)) < np.linspace(0.02, 0.5, classes), 1, -1).astype(np.int8)
    scores = np.round(chance.normal(size=labels.shape) + 1.5 * (labels > 0), 1)
    labels[chance.random(labels.shape) < 0.05] = 0
    return labels, scores


def test_eleven_points_by_hand() -> None:
    """Ranked: right, wrong, right, wrong, wrong, right. The precisions at the recalls 1/3, 2/3, 1 are 1, 2/3, 1/2, so
    they are 1 at the recalls 0 … 0.3, 2/3 at 0.4 … 0.6, and 1/2 at 0.7 … 1."""
    points, area = precisions([1, -1, 1, -1, -1, 1], [6, 5, 4, 3, 2, 1])
    assert points == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 1 / 2) / 11)
    assert area == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)


def test_precision_at_a_recall_is_the_highest_at_that_or_a_higher_recall() -> None:
    """Ranked: wrong, right, right. The precision 2/3 at recall 1 is higher than 1/2 at recall 1/2."""
    points, area = precisions([-1, 1, 1], [3, 2, 1])
    assert points == pytest.approx(2 / 3)
    assert area == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_recall_of_three_tenths_is_the_point_three_tenths() -> None:
    """Of ten images, three are ranked before a wrong one: 4 points have the precision 1, the others 10/11."""
    points, _ = precisions([1] * 3 + [-1] + [1] * 7, list(range(11, 0, -1)))
    assert points == pytest.approx((4 * 1 + 7 * 10 / 11) / 11)


def test_images_with_the_label_0_do_not_count() -> None:
    assert precisions([0, 1, 0, -1, 1], [9, 4, 3, 2, 1]) == precisions([1, -1, 1], [4, 2, 1])


def test_images_with_equal_scores_are_ranked_together_in_any_order() -> None:
    assert precisions([1, -1, -1, 1], [1, 1, 1, 1]) == (0.5, 0.5)
    assert precisions([-1, 1, 1, -1], [1, 1, 0, 1]) == precisions([1, -1, -1, 1], [1, 1, 1, 0])


def test_area_is_that_of_scikit_learn() -> None:
    labels, scores = drawn()
    found = average_precisions(labels, ranks(scores))[1, :, 0]
    for column, ours in enumerate(found):
        known = labels[:, column] != 0
        expected = average_precision_score(labels[known, column] > 0, scores[known, column])
        assert ours == pytest.approx(expected, abs=1e-12)


def test_class_that_no_image_shows_is_left_out_of_the_mean() -> None:
    labels, scores = drawn()
    labels[:, 2] = np.minimum(labels[:, 2], 0)
    found = average_precisions(labels, ranks(scores))[:, :, 0]
    assert np.isnan(found[:, 2]).all()
    assert mean_average_precision(labels, ranks(scores))[:, 0] == pytest.approx(np.nanmean(found, axis=1))
    assert np.isnan(mean_average_precision(np.minimum(labels, 0), ranks(scores))).all()


def test_resampled_images_count_as_often_as_they_are_drawn() -> None:
    labels, scores = drawn()
    counts = np.bincount(np.random.default_rng(1).integers(len(labels), size=len(labels)), minlength=len(labels))
    found = average_precisions(labels, ranks(scores), counts[:, None].astype(np.float32))[:, :, 0]
    copies = np.repeat(np.arange(len(labels)), counts)
    expected = average_precisions(labels[copies], ranks(scores[copies]))[:, :, 0]
    assert found == pytest.approx(expected, abs=1e-12)


def test_draws_depend_on_the_number_of_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores = drawn()
    found = replicates(labels, ranks(scores), 50)
    assert found.shape == (2, 50)
    assert np.array_equal(found[:, :20], replicates(labels, ranks(scores), 20))
    monkeypatch.setattr("trex.probing.average_precision._PIECE", 7 * len(labels))
    assert np.array_equal(found, replicates(labels, ranks(scores), 50))
    order = np.argsort(scores[:, 0])
    assert not np.array_equal(found, replicates(labels[order], ranks(scores[order]), 50)), "other images are drawn"
    for of_sets, of_all in zip(found, mean_average_precision(labels, ranks(scores))[:, 0], strict=True):
        assert 0.005 < of_sets.std() < 0.05
        assert abs(of_sets.mean() - of_all) < 2 * of_sets.std()


def test_ranks_have_the_smallest_type() -> None:
    dtypes = [ranks(np.zeros((n, 1))).dtype for n in (1, 256, 257, 65537)]
    assert dtypes == [np.uint8, np.uint8, np.uint16, np.uint32]
    assert ranks(np.array([[0.5], [2.0], [0.5], [-np.inf]]))[:, 0].tolist() == [1, 0, 1, 3]


def test_eleven_points_are_higher_with_fewer_images_and_the_area_is_not() -> None:
    chance = np.random.default_rng(0)

    def mean_over(images: int, sets: int) -> np.ndarray:
        found = []
        for _ in range(sets):
            labels = np.where(chance.random((images, 5)) < np.linspace(0.03, 0.4, 5), 1, -1).astype(np.int8)
            scores = chance.normal(size=labels.shape) + np.linspace(3, 1, 5) * (labels > 0)
            found.append(mean_average_precision(labels, ranks(scores))[:, 0])
        return np.mean(found, axis=0)

    points, area = mean_over(1000, 200) - mean_over(20000, 20)
    assert 0.006 < points < 0.012
    assert abs(area) < 0.004
