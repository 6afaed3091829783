"""The search direction of L-BFGS (Nocedal and Wright, algorithm 7.4) for a loss with a penalty that changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """A step, and the change of the gradient of the mean cross-entropy over it. The penalty is stored separately,
    because λ changes along a path."""

    step: Tensor  #: (K, r + 1)
    change: Tensor  #: (K, r + 1)
    curvature: float  #: step · change
    size: float  #: |step| |change|
    penalty: float  #: step · step, without the intercepts

    @classmethod
    def of(cls, step: Tensor, change: Tensor) -> Pair:
        """The pair of a step and its change."""
        size = float(step.double().norm() * change.double().norm())
        return cls(step, change, dot(step, change), size, inner(step, step))


def direction(pairs: Sequence[Pair], gradient: Tensor, inverse: Tensor, penalty: Tensor) -> Tensor | None:
    """The direction of the two-loop recursion, (K, r + 1); None if f does not decrease in it.

    Args:
        pairs: the last steps, oldest first.
        gradient: of f, (K, r + 1).
        inverse: a diagonal approximation of the inverse Hessian, (K, r + 1). It is scaled by the last pair.
        penalty: (r + 1,), the second derivative of the penalty: λ, and 0 for the intercept.
    """
    q = gradient.clone()
    strength = float(penalty[0])
    pairs = [pair for pair in pairs if _is_curved(pair, strength)]
    curvatures = [pair.curvature + strength * pair.penalty for pair in pairs]
    changes = [torch.addcmul(pair.change, pair.step, penalty) for pair in pairs]
    alphas = []
    for pair, change, curvature in zip(reversed(pairs), reversed(changes), reversed(curvatures), strict=True):
        alphas.append(dot(pair.step, q) / curvature)
        q.add_(change, alpha=-alphas[-1])
    q *= inverse
    if changes:
        q *= curvatures[-1] / dot(changes[-1], changes[-1] * inverse)
    for pair, change, curvature, alpha in zip(pairs, changes, curvatures, reversed(alphas), strict=True):
        q.add_(pair.step, alpha=alpha - dot(change, q) / curvature)
    return q.neg_() if dot(gradient, q) > 0 else None


def _is_curved(pair: Pair, strength: float) -> bool:
    """Whether the curvature of f along the step is positive by more than its rounding error."""
    penalty = strength * pair.penalty
    return pair.curvature + penalty > torch.finfo(pair.step.dtype).eps * (pair.size + penalty)


def inner(a: Tensor, b: Tensor) -> float:
    """The inner product without the intercepts."""
    return dot(a, b) - float(a[:, -1].double() @ b[:, -1].double())


def dot(a: Tensor, b: Tensor) -> float:
    """The inner product, summed in float64: squares of small numbers are below the range of float32."""
    return float(torch.dot(a.reshape(-1).double(), b.reshape(-1).double()))
