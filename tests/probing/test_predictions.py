"""Predictions for each test image: what is kept of the logits, the scores from them, and their file."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, top_k_accuracy_score

from trex.errors import UserError
from trex.interruption import StopRequest
from trex.probing import published
from trex.probing.knn import nearest
from trex.probing.predictions import LAST_RANK, Outcomes, outcomes, read_predictions, write_predictions
from trex.probing.rows import Rows
from trex.probing.scores import calibration_error, scores


def random_logits(images: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    chance = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=chance)
    logits = torch.randn(images, classes, generator=chance)
    logits[torch.arange(images), labels] += 2
    return logits, labels.numpy()


@pytest.mark.parametrize("piece", [1, 7, 300])
def test_scores_equal_those_of_scikit_learn_in_pieces_of_any_size(piece: int) -> None:
    logits, labels = random_logits(300, 12)
    found = scores(labels, outcomes(logits.split(piece), labels), 12)
    probabilities = logits.double().softmax(1).numpy()
    assert found.top1 == (probabilities.argmax(1) == labels).mean()
    assert found.top5 == pytest.approx(top_k_accuracy_score(labels, probabilities, k=5), abs=1e-12)
    assert found.nll == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    per_class = [(probabilities.argmax(1)[labels == k] == k).mean() for k in range(12)]
    assert found.mean_per_class == pytest.approx(np.mean(per_class))


def test_rank_and_probability_are_those_of_the_images_class() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [1.0, 1.0, 1.0], [5.0, -torch.inf, 0.0]])
    found = outcomes([logits], np.array([2, 1, 1]))
    assert found.predicted.tolist() == [1, 0, 0]
    assert found.rank.tolist() == [1, 1, LAST_RANK], "of equal classes the first precedes; probability 0 has no rank"
    assert found.log_probability[:2] == pytest.approx([1 - np.log(1 + np.e + np.e**2), -np.log(3)])
    assert found.log_probability[2] == -np.inf
    assert found.confidence == pytest.approx(logits.softmax(1).amax(1).numpy())


def test_predicted_class_is_that_of_the_logits_even_if_the_probabilities_round_to_equal_ones() -> None:
    logits = torch.tensor([[100.0, 100.00001, -3e4]])
    assert logits[0, 0] != logits[0, 1]
    assert outcomes([logits], np.array([1])).predicted.tolist() == [1]


def test_scores_that_have_no_meaning_are_none() -> None:
    logits, labels = random_logits(50, 5)
    found = scores(labels, outcomes([logits], labels), 5)
    assert (found.top5, found.nll is None) == (None, False)
    logits[0, labels[0]] = -torch.inf
    assert scores(labels, outcomes([logits], labels), 5).nll is None


def test_class_of_probability_zero_is_never_among_the_five_most_probable() -> None:
    """Neighbors vote for three classes of ten: the first of the others is not the fourth most probable one."""
    logits = torch.full((1, 10), -torch.inf)
    logits[0, [7, 8, 9]] = torch.tensor([0.5, 0.3, 0.2]).log()
    assert scores(np.array([0]), outcomes([logits], np.array([0])), 10).top5 == 0
    assert scores(np.array([9]), outcomes([logits], np.array([9])), 10).top5 == 1


def test_calibration_error_follows_its_formula() -> None:
    chance = np.random.default_rng(0)
    confidence, correct = chance.uniform(0.2, 1, 500), chance.random(500) < 0.6
    expected = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration_error(confidence, correct) == pytest.approx(expected)
    assert calibration_error(np.array([0.2, 1.0, 0.0]), np.array([True, True, False])) == pytest.approx(0.8 / 3)


def test_logits_of_lbfgs_give_the_probabilities_of_scikit_learn() -> None:
    chance = np.random.default_rng(0)
    for classes in (2, 5):
        labels = np.arange(200) % classes
        features = (chance.normal(size=(classes, 8))[labels] + chance.normal(size=(200, 8))).astype(np.float32)
        fitted = published.fit_lbfgs(Rows(features), labels, {"C": 1.0})
        expected = LogisticRegression(C=1.0, max_iter=2000).fit(features, labels).predict_proba(features)
        logits = torch.cat(list(fitted.logits(Rows(features), classes + 1)))
        assert logits.softmax(1)[:, :classes].numpy() == pytest.approx(expected, abs=1e-6)
        assert (logits[:, classes] == -torch.inf).all(), "a class without training images"
        assert np.array_equal(logits.argmax(1).numpy(), fitted(Rows(features)))


def test_votes_of_neighbors_are_probabilities() -> None:
    logits, labels = random_logits(80, 6)
    rows = Rows(logits.numpy())
    shares = torch.cat(list(nearest(rows, labels, rows, 20, StopRequest()).logits(20, 0.07, 6))).exp()
    assert torch.allclose(shares.sum(1), torch.ones(80))
    assert (shares == 0).any()


# ---- the file


def stored(path: Path, images: int = 200, classes: int = 300) -> tuple[str, np.ndarray, Outcomes]:
    logits, labels = random_logits(images, classes)
    found = outcomes([logits], labels)
    return write_predictions(path, labels, found, classes), labels, found


def test_file_holds_what_was_computed_and_the_same_predictions_give_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "seed_0.npz"
    digest, labels, found = stored(path)
    assert stored(tmp_path / "seed_1.npz")[0] == digest
    read = read_predictions(path, digest, 200, 300)
    assert (read.label.dtype, read.predicted.dtype) == (np.uint16, np.uint16)
    assert np.array_equal(read.label, labels)
    assert np.array_equal(read.predicted, found.predicted)
    assert np.array_equal(read.rank, found.rank)
    assert read.log_probability == pytest.approx(found.log_probability, rel=1e-3)


def test_probability_of_zero_stays_zero_and_a_tiny_one_does_not_become_zero(tmp_path: Path) -> None:
    path = tmp_path / "seed_0.npz"
    logits = torch.tensor([[0.0, -torch.inf], [0.0, -1e6]])
    labels = np.array([1, 1])
    digest = write_predictions(path, labels, outcomes([logits], labels), 2)
    assert read_predictions(path, digest, 2, 2).log_probability.tolist() == [-np.inf, -65504.0]


def test_fifty_thousand_images_of_a_thousand_classes_take_less_than_200_kilobytes(tmp_path: Path) -> None:
    chance = torch.Generator().manual_seed(0)
    labels = torch.arange(50_000) // 50
    logits = 1.5 * torch.randn(50_000, 1000, generator=chance)
    logits[torch.arange(50_000), labels] += 6 + 1.5 * torch.randn(50_000, generator=chance)
    found = outcomes(logits.split(1000), labels.numpy())
    assert 0.6 < (found.predicted == labels.numpy()).mean() < 0.9
    write_predictions(tmp_path / "seed_0.npz", labels.numpy(), found, 1000)
    assert (tmp_path / "seed_0.npz").stat().st_size < 200_000


def test_missing_damaged_or_foreign_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "seed_0.npz"
    with pytest.raises(UserError, match=r"seed_0\.npz: this file of predictions does not exist"):
        read_predictions(path, "0" * 64, 200, 300)
    digest = stored(path)[0]
    content = path.read_bytes()
    chance = random.Random(0)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"seed_0\.npz: its SHA-256"):
            read_predictions(path, digest, 200, 300)


def archive(arrays: dict[str, np.ndarray]) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def good(**changes: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "label": np.zeros(3, np.uint8), "predicted": np.ones(3, np.uint8), "rank": np.ones(3, np.uint8),
        "log_probability": -np.ones(3, np.float16), **changes,
    }  # fmt: skip


def bomb() -> bytes:
    """An array whose header and zip entry claim a gigabyte of zeros."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for key, array in good().items():
            one = io.BytesIO()
            np.lib.format.write_array(one, array)
            file.writestr(f"{key}.npy", one.getvalue() + (b"\0" * 10_000_000 if key == "label" else b""))
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a readable file of predictions"),
        (archive({"label": np.zeros(3, np.uint8)}), "expected label, predicted, rank, log_probability"),
        (archive(good(rank=np.zeros(4, np.uint8))), r"rank is uint8 \(4,\), expected uint8 \(3,\)"),
        (archive(good(rank=np.zeros(3, np.int16))), "rank is int16"),
        (archive(good(predicted=np.full(3, 9, np.uint8))), "classes beyond the 2"),
        (archive(good(log_probability=np.ones(3, np.float16))), "log-probabilities that are not in"),
        (archive(good(log_probability=np.full(3, np.nan, np.float16))), "log-probabilities that are not in"),
        (archive(good(label=np.array([{}, {}, {}]))), "not a readable file of predictions"),
        (bomb(), "has 10000131 bytes for 3 images"),
    ],
)
def test_file_with_the_right_digest_and_the_wrong_content_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "seed_0.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_predictions(path, hashlib.sha256(content).hexdigest(), 3, 2)


def test_any_damage_under_the_right_digest_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path, content = tmp_path / "seed_0.npz", archive(good())
    refused = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read_predictions(path, hashlib.sha256(damaged).hexdigest(), 3, 2)
        except UserError as error:
            refused += str(error).startswith(str(path))
    assert refused > len(content) // 2
