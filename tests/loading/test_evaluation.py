"""Batches for validation and feature extraction."""

from __future__ import annotations

import torch

from trex.config.schema import DataConfig
from trex.datasets.registry import load_split
from trex.images.preprocessing import Geometry
from trex.loading.evaluation import evaluation_batches


def test_evaluation_batches_contain_every_image_once_in_order() -> None:
    split = load_split("digits", "test", DataConfig())
    found = list(evaluation_batches(split, range(len(split)), Geometry(8, 8), 100, 0))
    assert torch.cat([indices for _, _, indices in found]).tolist() == list(range(len(split)))
    assert torch.cat([labels for _, labels, _ in found]).tolist() == split.labels.tolist()
