"""Synchronized batch norm behaves like the batch norm that it replaces."""

from __future__ import annotations

import torch
from torch import nn

from trex.model.batchnorm import CpuSyncBatchNorm


def test_synchronized_batch_norm_of_a_momentum_network_has_no_gradient() -> None:
    frozen = nn.BatchNorm2d(3).requires_grad_(requires_grad=False)
    made = CpuSyncBatchNorm.like(frozen)
    assert [parameter.requires_grad for parameter in made.parameters()] == [False, False]
    assert torch.equal(made.weight, frozen.weight)
