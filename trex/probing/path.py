"""Multinomial logistic regression along a path of C, each point solved to a certified optimum.

The objective is scikit-learn's, C · Σ CE + ½‖W‖² with an intercept that is not penalised, divided by C · N:

    f(W) = mean CE(W) + λ/2 ‖W‖²,   λ = 1 / (C · N).

Features are centred and rotated into the eigenbasis of their covariance, which leaves an L2-penalised problem as it is
and makes its Hessian nearly diagonal. L-BFGS starts from an extrapolation of the last two solutions and from the
inverse diagonal 1 / (eigenvalue_j · κ_k + λ), κ_k = mean p_k (1 - p_k), with the curvature pairs of the C before. The
line search is Newton's in logit space: with L = W Rᵀ and dL = d Rᵀ a whole line costs one product. f is λ-strongly
convex in the penalised weights, so f - f* ≤ ‖∇f‖² / (2λ) (Boyd and Vandenberghe, eq. 9.9); for the intercepts, which
have no penalty, κ_k stands in for λ where it is smaller. That certificate, not a small step, ends the iteration.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MEMORY = 12  #: curvature pairs
MAX_ITERATIONS = 400
#: The certificate divides by λ and so cannot fall below the rounding of a float32 gradient; at large C the iteration
#: ends where no further decrease is representable.
RELATIVE_GAP = 1e-3


@dataclass(frozen=True)
class Basis:
    """Mean and eigenbasis of features: `rotate` takes features into it."""

    mean: Tensor  #: (D,)
    vectors: Tensor  #: (D, r), orthonormal columns
    values: Tensor  #: (r,) eigenvalues of the covariance, descending

    @classmethod
    def of(cls, features: Tensor) -> Basis:
        """The basis of (N, D) float32 features, from the smaller of covariance and Gram matrix, in float64."""
        mean = features.double().mean(0)
        centred = features.double() - mean
        n, d = centred.shape
        if n >= d:
            values, vectors = torch.linalg.eigh(centred.T @ centred / n)
        else:
            values, left = torch.linalg.eigh(centred @ centred.T / n)
            kept = values > values[-1] * 1e-9
            values = values[kept]
            vectors = centred.T @ left[:, kept] / (values * n).sqrt()
        values = values.flip(0).clamp_min(float(values[-1]) * 1e-12 + 1e-30)
        return cls(mean.float(), vectors.flip(1).float().contiguous(), values.float())

    def rotate(self, features: Tensor) -> Tensor:
        """(N, D) features to (N, r + 1): coordinates in the basis, and a constant 1 for the intercept."""
        rotated = torch.empty(len(features), self.vectors.shape[1] + 1)
        torch.mm(features.float() - self.mean, self.vectors, out=rotated[:, :-1])
        rotated[:, -1] = 1
        return rotated


@dataclass(frozen=True)
class Solution:
    """One point of the path."""

    c: float
    weights: Tensor  #: (K, r + 1), the last column the intercept
    objective: float  #: f
    gap: float  #: upper bound of (f - f*) / f
    iterations: int


class Path:
    """Solves for one C after the other, each from what is known of those before; take them in ascending order."""

    def __init__(self, rotated: Tensor, labels: Tensor, classes: int, basis: Basis) -> None:
        self.rotated, self.labels = rotated, labels
        self.rows = torch.arange(len(labels))
        self.curvature = torch.cat([basis.values, torch.ones(1)])
        self.penalised = torch.ones(rotated.shape[1])
        self.penalised[-1] = 0
        self.weights = torch.zeros(classes, rotated.shape[1])
        self.logits = torch.zeros(classes, len(labels))
        self.previous: tuple[Tensor, Tensor] | None = None
        self.pairs: list[_Pair] = []

    def solve(self, c: float) -> Solution:
        """The optimum at C = `c`, to a relative gap of RELATIVE_GAP or the end of float32's precision."""
        strength = 1.0 / (c * len(self.labels))
        cross_entropy, residual = self._extrapolate(strength)
        slope = self._slope(residual)
        absolute = residual.abs()
        kappa = (absolute * (1 - absolute)).mean(1, keepdim=True).clamp_min(1e-30)
        inverse = 1.0 / (self.curvature * kappa + self.penalised * strength).clamp_min(1e-30)
        convexity = torch.full_like(self.weights, strength, dtype=torch.float64)
        convexity[:, -1:] = kappa.double().clamp_max(strength)
        iteration, stalled = 0, 0
        while True:
            objective = cross_entropy + 0.5 * strength * self._inner(self.weights, self.weights)
            gradient = torch.addcmul(slope, self.weights, self.penalised, value=strength)
            gap = float((gradient.double().square() / convexity).sum()) / 2
            if gap <= RELATIVE_GAP * objective or iteration == MAX_ITERATIONS or stalled == 3:
                return Solution(c, self.weights.clone(), objective, gap / objective, iteration)
            direction = self._direction(gradient, inverse, strength)
            along = direction @ self.rotated.T
            length, cross_entropy, residual = self._search(direction, along, strength)
            step = direction.mul_(length)
            self.weights = self.weights + step
            self.logits = self.logits + length * along
            new_slope = self._slope(residual)
            self._remember(step, new_slope - slope)
            slope = new_slope
            iteration += 1
            now = cross_entropy + 0.5 * strength * self._inner(self.weights, self.weights)
            stalled = stalled + 1 if objective - now <= 1e-7 * objective else 0

    def _extrapolate(self, strength: float) -> tuple[float, Tensor]:
        """Move along the line through the last two solutions, as far as it is good for."""
        before, self.previous = self.previous, (self.weights, self.logits)
        if before is None:
            return _cross_entropy(self.logits, self.labels, self.rows)
        direction, along = self.weights - before[0], self.logits - before[1]
        length, cross_entropy, residual = self._search(direction, along, strength)
        self.weights = self.weights + length * direction
        self.logits = self.logits + length * along
        return cross_entropy, residual

    def _slope(self, residual: Tensor) -> Tensor:
        """Gradient of the mean cross-entropy: (p - onehot) R / N."""
        return (residual @ self.rotated).div_(len(self.labels))

    def _direction(self, gradient: Tensor, inverse: Tensor, strength: float) -> Tensor:
        """The L-BFGS two-loop recursion. Loss and penalty part of each pair are apart, so that λ may change."""
        q = gradient.clone()
        weights = [1.0 / max(pair.curvature + strength * pair.penalty, 1e-30) for pair in self.pairs]
        alphas = []
        for pair, weight in zip(reversed(self.pairs), reversed(weights), strict=True):
            alpha = weight * _dot(pair.step, q)
            alphas.append(alpha)
            q.add_(pair.change, alpha=-alpha).addcmul_(pair.step, self.penalised, value=-alpha * strength)
        q *= inverse
        if self.pairs:
            last = self.pairs[-1]
            change = torch.addcmul(last.change, last.step, self.penalised, value=strength)
            q *= (1 / weights[-1]) / max(_dot(change, change * inverse), 1e-30)
        for pair, weight, alpha in zip(self.pairs, weights, reversed(alphas), strict=True):
            beta = weight * (_dot(pair.change, q) + strength * self._inner(pair.step, q))
            q.add_(pair.step, alpha=alpha - beta)
        direction = q.neg_()
        if _dot(gradient, direction) >= 0:  # the pairs of another C misled: begin anew
            self.pairs.clear()
            direction = -gradient * inverse
        return direction

    def _search(self, direction: Tensor, along: Tensor, strength: float) -> tuple[float, float, Tensor]:
        """Newton's method for the step length, kept in a bracket. Returns length, mean CE and residual there."""
        linear = strength * self._inner(self.weights, direction)
        quadratic = strength * self._inner(direction, direction)
        margins = along - along[self.labels, self.rows]
        length, low, high = 1.0, 0.0, float("inf")
        for _ in range(8):
            cross_entropy, residual = _cross_entropy(self.logits + length * along, self.labels, self.rows)
            weighted = residual * margins  # the label's own row is 0: its margin is
            mean = weighted.sum(0)
            slope = float(mean.double().mean()) + linear + length * quadratic
            bend = float((weighted * margins).sum(0).sub_(mean * mean).double().mean()) + quadratic
            low, high = (low, length) if slope > 0 else (length, high)
            wanted = length - slope / max(bend, 1e-30)
            if not low < wanted < high:
                wanted = 0.5 * (low + high) if high < float("inf") else 2 * length + 1e-3
            if high == float("inf"):
                wanted = min(wanted, 4 * length + 1)
            if abs(wanted - length) < 0.15 * abs(length):
                return length, cross_entropy, residual
            length = wanted
        cross_entropy, residual = _cross_entropy(self.logits + length * along, self.labels, self.rows)
        return length, cross_entropy, residual

    def _remember(self, step: Tensor, change: Tensor) -> None:
        self.pairs.append(_Pair(step, change, _dot(step, change), self._inner(step, step)))
        del self.pairs[:-MEMORY]

    def _inner(self, a: Tensor, b: Tensor) -> float:
        """Inner product without the intercepts."""
        return _dot(a, b) - float(a[:, -1].double() @ b[:, -1].double())


@dataclass(frozen=True)
class _Pair:
    step: Tensor
    change: Tensor  #: of the loss part of the gradient
    curvature: float  #: step · change
    penalty: float  #: step · step without intercepts


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.reshape(-1), b.reshape(-1)))


def _cross_entropy(logits: Tensor, labels: Tensor, rows: Tensor) -> tuple[float, Tensor]:
    """Mean cross-entropy and p - onehot of (K, N) logits.

    Through the margins M = L - L_y: CE = log(1 + Σ exp M), p_y - 1 = -S / (1 + S). Float32's log_softmax is no finer
    than 1e-7, which is all there is left of the loss at large C.
    """
    margins = logits - logits[labels, rows]
    margins[labels, rows] = -torch.inf
    top = margins.amax(0).clamp_min_(0)
    others = margins.sub_(top).exp_()
    total = others.sum(0)
    own = torch.exp(-top)
    whole = own + total
    entropy = top + torch.where(top == 0, torch.log1p(total), torch.log(whole))
    residual = others.div_(whole)
    residual[labels, rows] = -(total / whole)
    return float(entropy.double().mean()), residual
