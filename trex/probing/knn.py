"""Weighted k-nearest-neighbor classification by cosine similarity (Wu et al., arXiv 1805.01978, section 3.4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trex.interruption import StopRequest
from trex.probing.memory import PIECE, piece_rows
from trex.probing.rows import Rows

TEMPERATURE = 0.07
_QUERIES = 1024  #: test images per product


def knn_logits(
    train: Rows, labels: np.ndarray, test: Rows, k: int, classes: int, stop: StopRequest
) -> Iterator[Tensor]:
    """The logarithm of each class's share of the votes for the test features in order, (m, K) float32 pieces.

    Each of the `k` nearest training features votes for its label with weight exp(similarity / 0.07); -inf stands for a
    class without votes. The training features are read once, in pieces. Memory holds the test features and one piece.

    Args:
        train: the training features.
        labels: (n_train,) int64.
        test: the test features.
        k: neighbors that vote.
        classes: number of classes.
        stop: checked for each piece.

    Raises:
        Interrupted: if asked to stop.
    """
    queries = replace(test, normalize=True).take(slice(None))
    k = min(k, len(train))
    similarity = torch.full((len(queries), k), -torch.inf)
    nearest = torch.zeros(len(queries), k, dtype=torch.int64)
    size = min(piece_rows(train.dim, 1), PIECE // _QUERIES)
    begin = 0
    for bank in replace(train, normalize=True).pieces(size):
        for first in range(0, len(queries), _QUERIES):
            stop.check()
            part = slice(first, first + _QUERIES)
            found = queries[part] @ bank.T
            places = torch.arange(begin, begin + len(bank)).expand_as(found)
            best = torch.cat([similarity[part], found], dim=1).topk(k, dim=1)
            similarity[part] = best.values
            nearest[part] = torch.cat([nearest[part], places], dim=1).gather(1, best.indices)
        begin += len(bank)
    targets = torch.from_numpy(np.ascontiguousarray(labels))
    parts = zip(torch.split(similarity, _QUERIES), torch.split(nearest, _QUERIES), strict=True)
    for found, places in parts:
        votes = torch.zeros(len(found), classes).scatter_add_(1, targets[places], ((found - 1) / TEMPERATURE).exp())
        yield (votes / votes.sum(1, keepdim=True)).log_()
