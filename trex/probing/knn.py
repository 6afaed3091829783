"""Weighted k-nearest-neighbour classification by cosine similarity (Wu et al., arXiv 1805.01978, section 3.4)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

TEMPERATURE = 0.07
CHUNK = 1024


def knn_predict(train: np.ndarray, labels: np.ndarray, test: np.ndarray, k: int, classes: int) -> np.ndarray:
    """Classes of the test features, (n_test,) int64.

    Each of the `k` nearest training features votes for its label with weight exp(similarity / 0.07). Memory: CHUNK
    rows of similarities at a time.
    """
    bank = F.normalize(torch.from_numpy(np.array(train, dtype=np.float32)), dim=1)
    targets = torch.from_numpy(np.ascontiguousarray(labels))
    predicted = []
    for begin in range(0, len(test), CHUNK):
        queries = F.normalize(torch.from_numpy(np.array(test[begin : begin + CHUNK], dtype=np.float32)), dim=1)
        similarity, nearest = (queries @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(queries), classes)
        votes.scatter_add_(1, targets[nearest], ((similarity - 1) / TEMPERATURE).exp())
        predicted.append(votes.argmax(1))
    return torch.cat(predicted).numpy()
