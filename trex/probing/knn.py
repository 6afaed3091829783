"""Weighted k-nearest-neighbor classification by cosine similarity (Wu et al., arXiv 1805.01978, section 3.4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trex.interruption import StopRequest
from trex.probing.memory import PIECE, piece_rows
from trex.probing.rows import Rows

_QUERIES = 512  #: test images per product


@dataclass(frozen=True)
class Neighbors:
    """The nearest training images of each test image, the nearest first; of equal ones the first in trainval."""

    similarity: Tensor  #: (n_test, k) float32, cosine similarities
    labels: Tensor  #: (n_test, k) int64

    def logits(self, k: int, temperature: float, classes: int) -> Iterator[Tensor]:
        """The logarithm of each class's share of the votes, in (m, K) float32 pieces; -inf for a class without votes.

        Each of the `k` nearest training images votes for its label with weight exp(similarity / temperature). With
        fewer training images, all of them vote.
        """
        for first in range(0, len(self.labels), _QUERIES):
            similarity, labels = (of[first : first + _QUERIES, :k] for of in (self.similarity, self.labels))
            # The weights are relative to that of the nearest image, so that none overflows and not all underflow.
            weights = ((similarity - similarity[:, :1]) / temperature).exp()
            votes = torch.zeros(len(weights), classes).scatter_add_(1, labels, weights)
            yield (votes / votes.sum(1, keepdim=True)).log_()


def nearest(train: Rows, labels: np.ndarray, test: Rows, k: int, stop: StopRequest) -> Neighbors:
    """Find the `k` nearest training features of each test feature.

    The training features are read once, in pieces. Memory holds the test features and one piece. The first columns are
    the same for every `k`.

    Args:
        train: the training features.
        labels: (n_train,) int64.
        test: the test features.
        k: neighbors per test feature; with fewer training features, all of them.
        stop: checked for each piece.

    Raises:
        Interrupted: if asked to stop.
    """
    queries = replace(test, normalize=True).take(slice(None))
    k = min(k, len(train))
    best = torch.empty(len(queries), 0, dtype=torch.int64)
    size = min(piece_rows(train.dim, 1), PIECE // _QUERIES)
    begin = 0
    for bank in replace(train, normalize=True).pieces(size):
        places = torch.arange(begin, begin + len(bank))
        parts = []
        for first in range(0, len(queries), _QUERIES):
            stop.check()
            part = slice(first, first + _QUERIES)
            keys = torch.cat([best[part], _keys(queries[part] @ bank.T, places)], dim=1)
            parts.append(keys.topk(min(k, keys.shape[1]), dim=1).values)
        best = torch.cat(parts)
        begin += len(bank)
    similarity, places = _split(best)
    return Neighbors(similarity, torch.from_numpy(np.ascontiguousarray(labels))[places])


def _keys(similarity: Tensor, places: Tensor) -> Tensor:
    """One int64 per pair of images, larger for a larger similarity and, if that is equal, for a smaller place.

    The upper 32 bits are those of the float32, changed so that their order as an integer is that of the numbers. So no
    two keys are equal, and the largest ones do not depend on the order in which they are found.
    """
    bits = (similarity + 0.0).view(torch.int32)  # -0 becomes 0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    return (ordered << 32) - places


def _split(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The similarities and the places that `_keys` combined."""
    places = -keys & 0xFFFFFFFF
    ordered = ((keys + places) >> 32).int()
    return torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).view(torch.float32), places
