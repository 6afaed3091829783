"""Batches for validation and feature extraction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trex.config.schema import DataConfig
from trex.datasets.registry import load_split
from trex.images.preprocessing import Geometry
from trex.loading.evaluation import evaluation_batches, evaluation_parts


def test_evaluation_batches_contain_every_image_once_in_order() -> None:
    split = load_split("digits", "test", DataConfig())
    found = list(evaluation_batches(split, range(len(split)), Geometry(8, 8), 100, 0))
    assert torch.cat([indices for _, _, indices in found]).tolist() == list(range(len(split)))
    assert torch.cat([labels for _, labels, _ in found]).tolist() == split.labels.tolist()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_parts_are_the_lists_in_their_order_also_of_different_lengths(workers: int) -> None:
    split = load_split("digits", "test", DataConfig())
    lists = [np.array([7, 3]), np.array([5]), np.arange(20, 30), np.array([3])]
    found = list(evaluation_parts(split, lists, Geometry(8, 8), workers))
    assert [part.indices.tolist() for part in found] == [one.tolist() for one in lists]
    assert [part.labels.tolist() for part in found] == [split.labels[one].tolist() for one in lists]
    assert torch.equal(found[3].images[0], found[0].images[1])
