"""The line search of the exact solver: Newton's method on the step length, with the logits of all images or a sample.

With the logits L = W Rᵀ and their change dL = d Rᵀ, f' and f'' at any step length take no product. If not all logits
are kept in memory, those of a sample of the images give f'' and the change of f'; f' at step length 0 is known from the
gradient of all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from trex.interruption import StopRequest
from trex.probing.softmax import cross_entropy

#: What `cross_entropy` returns.
Residual = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Part:
    """Some images on a line."""

    logits: Tensor  #: (K, n) at its beginning, without the logarithms of the class frequencies
    along: Tensor  #: (K, n) their change over a step of length 1, less that of the label's logit
    labels: Tensor  #: (n,) int64

    @classmethod
    def of(cls, logits: Tensor, along: Tensor, labels: Tensor) -> Self:
        """The images with the change `along` of their logits, which is changed in place: the loss depends on the
        differences between the logits of an image only."""
        return cls(logits, along.sub_(along[labels, torch.arange(len(labels), device=labels.device)]), labels)


@dataclass(frozen=True)
class Line:
    """The function f along a search direction."""

    parts: Sequence[Part]
    prior: Tensor | None  #: (K,), as in `cross_entropy`
    linear: float  #: the derivative of the penalty at its beginning
    quadratic: float  #: the second derivative of the penalty
    loss_slope: float | None  #: the derivative of the mean cross-entropy of all images, if `parts` are a sample
    stop: StopRequest

    def minimum(self) -> tuple[float, list[Residual]]:
        """The step length at which f' is zero, by Newton's method within a bracket.

        Returns:
            The length, and `cross_entropy` of each part there, or () if it is not known.
        """
        known = 0.0 if self.loss_slope is None else self.loss_slope - self._loss(0.0)[0]
        length, low, high = 1.0, 0.0, float("inf")
        for _ in range(8):
            slope, curvature, residuals = self._loss(length)
            slope += known + self.linear + length * self.quadratic
            curvature += self.quadratic
            low, high = (low, length) if slope > 0 else (length, high)
            wanted = length - slope / max(curvature, 1e-300)
            if not low < wanted < high:
                wanted = 0.5 * (low + high) if high < float("inf") else 2 * length + 1e-3
            if high == float("inf"):
                wanted = min(wanted, 4 * length + 1)
            if abs(wanted - length) < 0.15 * abs(length):
                return length, residuals
            length = wanted
        return length, []

    def _loss(self, length: float) -> tuple[float, float, list[Residual]]:
        """The derivatives of the mean cross-entropy of `parts` at a step length, and `cross_entropy` of each part if
        the parts are all images."""
        slopes, curvatures, count, found = [], [], 0, []
        for part in self.parts:
            self.stop.check()
            logits = torch.add(part.logits, part.along, alpha=length)
            residual = cross_entropy(logits, part.labels, self.prior)
            weighted = torch.mul(residual[1], part.along, out=logits)  # 0 in the row of the label, whose change is 0
            mean = weighted.sum(0)
            slopes.append(mean.double().sum())
            curvatures.append(weighted.mul_(part.along).sum(0).sub_(mean * mean).double().sum())
            count += len(part.labels)
            if self.loss_slope is None:
                found.append(residual)
        slope, curvature = torch.stack([sum(slopes), sum(curvatures)]).tolist()  # type: ignore[list-item]
        return slope / count, curvature / count, found
