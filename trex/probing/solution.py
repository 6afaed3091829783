"""What the exact solver computes at one value of C, and what it needs for the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from trex.probing.lbfgs import norm


@dataclass(frozen=True)
class Accuracy:
    """When a solution is accurate enough."""

    gap: float  #: the largest accepted `Solution.gap`
    iterations: int = 400  #: the iteration also ends after this number


#: The search for C: the accuracies of two solutions with this gap differ by much less than their standard errors. The
#: second one is for large problems. The true gaps are about a twentieth of these bounds.
SEARCH, SEARCH_LARGE = Accuracy(1e-3), Accuracy(1e-2)
#: The final fit: at least 99.9 % of the predictions are those of the optimum (tests/probing/test_optimum.py).
FINAL = Accuracy(1e-6, iterations=1000)
#: The same for problems that are computed in float32, which often reaches no smaller gap than the second one. Float64
#: confirms the second one, or continues from there.
FINAL_FLOAT32, CONFIRMED = Accuracy(5e-5), Accuracy(1e-4, iterations=1000)
#: Solutions on the way to the first one.
APPROACH = Accuracy(1e-1)


def strength_of(c: float, images: int, present: int, scale: float) -> float:
    """λ for features divided by `scale`; `present` is the number of classes that have images."""
    return (2 if present == 2 else 1) / (c * images * scale**2)


def approach_to(c: float, strength: float) -> list[float]:
    """Values of C to solve before C = `c`, which is slow to solve from a cold start if its λ, `strength`, is small.
    Ascending."""
    steps: list[float] = []
    while strength < 0.1:
        c, strength = c / 10, strength * 10
        steps.append(c)
    return steps[::-1]


@dataclass(frozen=True)
class Solution:
    """The solution at one value of C."""

    c: float
    weights: Tensor  #: (K, r + 1), the last column the intercept
    objective: float  #: f, nats
    entropy: float  #: the mean cross-entropy in f, nats
    penalty: float  #: λ/2 ‖W‖² in f
    #: An upper bound of f - f*, divided by the smaller one of f and the decrease of f from its value at W = 0, but at
    #: least by the penalty.
    gap: float
    iterations: int


@dataclass(frozen=True)
class Point:
    """The result of one pass over the images at the current weights."""

    entropy: float  #: mean cross-entropy
    excess: float  #: mean cross-entropy, minus that of the class frequencies; with a small relative error
    slope: Tensor  #: (K, r + 1), the gradient of the mean cross-entropy
    spread: Tensor  #: (K, 1), mean p (1 - p), κ


def upper_bound(gradient: Tensor, point: Point, strength: float, radius: float) -> float:
    """An upper bound of f - f* at `point`, where f has the given gradient, (K, r + 1).

    f - λ/2 ‖W‖² is convex, so f decreases by at most |∇W| w + |∇b| b - λ/2 w² on the way to the optimum, where w and b
    are the changes of weights and intercepts. Either b ≤ 2 ρ w, with the greatest length ρ of a feature, `radius`: then
    this is at most (|∇W| + 2 ρ |∇b|)² / (2λ). Or the intercepts change more than half of each logit: then their
    curvature, approximated by the diagonal κ of their Hessian, limits it to |∇W|² / (2λ) + 2 Σ ∇b² / κ.
    """
    intercepts = gradient[:, -1].double()
    missing = 2 * float((intercepts.square() / point.spread[:, 0].double()).sum())
    length = norm(gradient[:, :-1]) + 2 * radius * float(intercepts.norm())
    return missing + length * length / (2 * strength)


@dataclass(frozen=True)
class PathState:
    """Everything that the next solution of a path depends on. K counts the classes that have images."""

    weights: Tensor  #: (K, r + 1), the last solution; intercepts relative to the logarithms of the class frequencies
    previous: Tensor | None  #: the solution before the last
    pairs: tuple[tuple[Tensor, Tensor], ...]  #: steps, and the change of the gradient over each
    point: Point | None  #: of the last solution
    fast: bool  #: whether the path computes its products in bfloat16

    @classmethod
    def of(cls, plain: Any) -> Self:
        """The state from the value that `plain` returned."""
        weights, previous, pairs, point, fast = plain
        found = None if point is None else Point(*point)
        return cls(weights, previous, tuple((step, change) for step, change in pairs), found, fast)

    def plain(self) -> tuple[object, ...]:
        """The state as tensors and numbers in tuples and lists, for a file."""
        point = self.point and (self.point.entropy, self.point.excess, self.point.slope, self.point.spread)
        return self.weights, self.previous, list(self.pairs), point, self.fast

    @property
    def bytes(self) -> int:
        """RAM."""
        tensors = [self.weights, *(tensor for pair in self.pairs for tensor in pair)]
        tensors += [] if self.previous is None else [self.previous]
        tensors += [] if self.point is None else [self.point.slope]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        pairs = tuple((step.to(device), change.to(device)) for step, change in self.pairs)
        previous = None if self.previous is None else self.previous.to(device)
        point = self.point and replace(
            self.point, slope=self.point.slope.to(device), spread=self.point.spread.to(device)
        )
        return type(self)(self.weights.to(device), previous, pairs, point, self.fast)

    def moved(self) -> Self:
        """For a path of other images with the same classes: it starts from the last solution and the pairs."""
        return replace(self, previous=None, point=None)

    def restarted(self, dtype: torch.dtype) -> Self:
        """The last solution and the pairs in another type, without the solution before the last: a path that is
        created with this state starts from the last solution, not from an extrapolation."""
        pairs = tuple((step.to(dtype), change.to(dtype)) for step, change in self.pairs)
        return type(self)(self.weights.to(dtype), None, pairs, None, False)
