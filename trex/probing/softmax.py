"""Cross-entropy of logits, its gradient and its curvature, with small relative errors also where they are tiny.

Two forms are needed. At a large C, the cross-entropy of an image can be 1e-20; it is computed from the margins between
the logits. At a small C, or with features of a small scale, the logits differ from those of the class frequencies by
1e-20; the difference is computed with expm1.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: `near_prior` is used while all logits differ by less than this from those of the class frequencies.
NEAR = 0.05


def cross_entropy(logits: Tensor, labels: Tensor, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of (K, n) logits, () float64, and its gradient p - onehot, (K, n).

    Computed from the margins M = L - L_y over the other classes, S = Σ exp M: CE = log(1 + S), p_y - 1 = -S / (1 + S).
    The log_softmax of float32 has a resolution of only 1e-7, and at large C the loss can be as small as that.

    Args:
        logits: (K, n), without `prior`.
        labels: (n,) int64.
        prior: (K,), added to the logits of each image.
    """
    places = torch.arange(len(labels), device=logits.device)
    correct = logits[labels, places]
    margins = logits - (correct if prior is None else correct + prior[labels])
    if prior is not None:
        margins += prior[:, None]
    margins[labels, places] = -torch.inf
    top = margins.amax(0).clamp_min_(0)
    others = margins.sub_(top).exp_()
    total = others.sum(0)
    whole = torch.exp(-top) + total
    entropy = top + torch.where(top == 0, torch.log1p(total), torch.log(whole))
    residual = others.div_(whole)
    residual[labels, places] = -(total / whole)
    return entropy.double().sum(), residual


def near_prior(logits: Tensor, labels: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """How cross-entropy and probabilities differ from those of the class frequencies, for |logits| <= NEAR.

    With p_k = π_k exp z_k / Σ π_j exp z_j and m = Σ π_j expm1 z_j: p_k - π_k = π_k (expm1 z_k - m) / (1 + m), and the
    cross-entropy is -log π_y - z_y + log(1 + m).

    Args:
        logits: z, (K, n), without the logarithms of `shares`.
        labels: (n,) int64.
        shares: π, (K,), the class frequencies.

    Returns:
        The sum of log(1 + m) - z_y, () float64, and p - π, (K, n).
    """
    correct = logits.gather(0, labels[None])[0]
    powers = torch.expm1(logits)
    mean = shares @ powers
    excess = (torch.log1p(mean) - correct).double().sum()
    return excess, powers.sub_(mean).mul_(shares[:, None]).div_(1 + mean)
