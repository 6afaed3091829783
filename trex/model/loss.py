"""What a training step gives back, and the loss that classifies every crop."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Output(NamedTuple):
    """Of the forward pass of one training step.

    `loss`: (), what is minimized.
    `metrics`: by name, (n,) values without gradient, one per crop of this rank; their mean is logged.
    """

    loss: Tensor
    metrics: dict[str, Tensor]


def classification(logits: Tensor, labels: Tensor) -> Output:
    """Mean cross-entropy over all crops, in float32 or finer also under autocast; the metric `top1` in %.

    Args:
        logits: (n_crops * B, classes), crop-major: row c * B + i is crop c of image i.
        labels: (B,) int64, of the images.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    repeated = labels.repeat(logits.shape[0] // labels.shape[0])
    hits = logits.detach().argmax(dim=1) == repeated
    return Output(F.cross_entropy(logits, repeated), {"top1": 100.0 * hits})
