"""k-NN: one search for the neighbors, and the votes for any k and temperature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from trex.interruption import StopRequest
from trex.probing.knn import nearest
from trex.probing.rows import Rows


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return x.astype(np.float32) / 16, y


def knn_predict(train: Rows, labels: np.ndarray, test: Rows, k: int) -> np.ndarray:
    found = nearest(train, labels, test, k, StopRequest()).logits(k, 0.07, 10)
    return torch.cat([piece.argmax(1) for piece in found]).numpy()


def test_knn_votes_by_similarity(digits) -> None:
    features, labels = digits
    predicted = knn_predict(Rows(features[:1400]), labels[:1400], Rows(features[1400:]), 20)
    assert (predicted == labels[1400:]).mean() > 0.93
    assert (knn_predict(Rows(features), labels, Rows(features), 1) == labels).all()


def test_knn_equals_scikit_learns_also_in_pieces(digits, monkeypatch) -> None:
    features, labels = digits
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)

    for piece in (1 << 24, 64 * 100):
        monkeypatch.setattr("trex.probing.memory.PIECE", piece)
        neighbors = nearest(Rows(features[:1400]), labels[:1400], Rows(features[1400:]), 200, StopRequest())
        for k, temperature in ((1, 0.07), (10, 0.07), (20, 0.5), (20, 0.001), (200, 0.07), (5000, 0.02)):

            def weights(distances: np.ndarray, t: float = temperature) -> np.ndarray:
                return np.exp((distances.min(1, keepdims=True) - distances) / t)  # a cosine distance is 1 - similarity

            reference = KNeighborsClassifier(min(k, 200), metric="cosine", weights=weights)
            expected = reference.fit(unit[:1400], labels[:1400]).predict(unit[1400:])
            found = torch.cat(list(neighbors.logits(k, temperature, 10))).argmax(1).numpy()
            assert (found == expected).mean() > 0.997  # ties are broken differently


def test_neighbors_do_not_depend_on_the_number_searched_nor_on_pieces_even_with_duplicates(monkeypatch) -> None:
    chance = np.random.default_rng(0)
    rows = np.repeat(chance.normal(size=(40, 6)).astype(np.float32), 5, axis=0)  # each image five times
    labels = chance.integers(0, 7, 200)
    unit = torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)
    similarity = (unit[:50] @ unit.T).numpy()
    for piece in (1 << 24, 64 * 7):
        monkeypatch.setattr("trex.probing.memory.PIECE", piece)
        whole = nearest(Rows(rows), labels, Rows(rows[:50]), 200, StopRequest())
        for k in (1, 3, 199):
            part = nearest(Rows(rows), labels, Rows(rows[:50]), k, StopRequest())
            assert torch.equal(part.similarity, whole.similarity[:, :k])
            assert torch.equal(part.labels, whole.labels[:, :k])
        order = np.argsort(-whole.similarity.numpy(), axis=1, kind="stable")
        assert (order == np.arange(200)).all()
        assert np.allclose(np.sort(-similarity, axis=1), -whole.similarity.numpy(), atol=1e-6)
        assert (whole.similarity < 0).any()


@pytest.mark.parametrize("temperature", [1e-5, 0.07, 900.0])
def test_extreme_temperatures_are_one_neighbor_and_the_majority(temperature: float) -> None:
    rows = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1]], np.float32)
    neighbors = nearest(Rows(rows), np.array([2, 1, 1, 0]), Rows(rows[:1]), 4, StopRequest())
    [logits] = neighbors.logits(3, temperature, 3)
    assert int(logits.argmax()) == (2 if temperature < 0.001 else 1)
    assert logits[0, 0] == -torch.inf
