"""The output of a training step, and the loss that classifies every crop."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Output(NamedTuple):
    """The result of the forward pass of one training step.

    `loss`: () tensor, to be minimized.
    `metrics`: (n,) tensors by name, without gradient, one value per crop of this rank; their mean is logged.
    """

    loss: Tensor
    metrics: dict[str, Tensor]


def classification(logits: Tensor, labels: Tensor) -> Output:
    """Compute the mean cross-entropy over all crops, and the metric `top1` in %.

    The computation is in float32 or float64, also under autocast.

    Args:
        logits: (n_crops * B, classes), crop-major: row c * B + i is crop c of image i.
        labels: (B,) int64, of the images.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    repeated = labels.repeat(logits.shape[0] // labels.shape[0])
    hits = logits.detach().argmax(dim=1) == repeated
    return Output(F.cross_entropy(logits, repeated), {"top1": 100.0 * hits})
