"""Multinomial logistic regression for ascending values of C, each solved to a certified optimum.

The objective is scikit-learn's, C · Σ CE + ½‖W‖² with an intercept that is not penalized, divided by C · N:

    f(W) = mean CE(W) + λ/2 ‖W‖²,   λ = 1 / (C · N).

Features are centered and rotated into the eigenbasis of their covariance. This does not change an L2-penalized problem,
and it makes the Hessian nearly diagonal. L-BFGS starts from an extrapolation of the last two solutions, with the
inverse Hessian approximated by the diagonal 1 / (eigenvalue_j · κ_k + λ), κ_k = mean p_k (1 - p_k). The line search is
Newton's method on the logits: with L = W Rᵀ and dL = d Rᵀ, a complete line search costs one product.

The iteration ends when f is proven to be close to its minimum f*, not when a step is small. f is λ-strongly convex in
the penalized weights, so f - f* ≤ ‖∇f‖² / (2λ) (Boyd and Vandenberghe, eq. 9.9). The intercepts have no penalty: for
them λ is replaced by κ_k if that is smaller.

Images are processed in pieces. If the logits of all images do not fit into memory, they are computed again when needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from trex.interruption import StopRequest
from trex.probing.design import Design
from trex.probing.memory import PAIRS

MAX_ITERATIONS = 400
#: The largest accepted (f - f*) / f. The bound divides by λ, so at large C the rounding of a float32 gradient can keep
#: it above this value; the iteration then ends when f no longer decreases in float32.
RELATIVE_GAP = 1e-3


@dataclass(frozen=True)
class Solution:
    """The solution at one value of C."""

    c: float
    weights: Tensor  #: (K, r + 1), the last column the intercept
    objective: float  #: f, nats
    entropy: float  #: the mean cross-entropy in f, nats
    gap: float  #: an upper bound of (f - f*) / f
    iterations: int


@dataclass(frozen=True)
class _Point:
    """The result of one pass over the images at the current weights."""

    entropy: float  #: mean cross-entropy
    slope: Tensor  #: (K, r + 1), the gradient of the mean cross-entropy
    spread: Tensor  #: (K, 1), mean p (1 - p), κ


@dataclass(frozen=True)
class PathState:
    """Everything that the next solution of a path depends on."""

    weights: Tensor  #: (K, r + 1), the last solution
    previous: Tensor | None  #: the solution before the last
    pairs: tuple[tuple[Tensor, Tensor], ...]  #: steps, and the change of the gradient over each

    @classmethod
    def of(cls, plain: Any) -> Self:
        """The state from the value that `plain` returned."""
        weights, previous, pairs = plain
        return cls(weights, previous, tuple((step, change) for step, change in pairs))

    def plain(self) -> tuple[object, ...]:
        """The state as tensors in tuples and lists, for a file."""
        return self.weights, self.previous, list(self.pairs)


class RegularizationPath:
    """Solves for one value of C after another, in ascending order, each starting from the previous solutions.

    A path that is created with the `state` of another path continues exactly like that path, bit for bit.
    """

    def __init__(
        self, design: Design, labels: Tensor, classes: int, stop: StopRequest, keep_logits: bool = True,
        state: PathState | None = None,
    ) -> None:  # fmt: skip
        self.design, self.labels, self.stop, self.keep_logits = design, labels, stop, keep_logits
        self.eigenvalues = torch.cat([design.basis.values, torch.ones(1)])
        self.penalized = torch.ones(design.width)
        self.penalized[-1] = 0
        self.weights: Tensor = state.weights if state else torch.zeros(classes, design.width)
        self.previous: Tensor | None = state.previous if state else None
        self.pairs = [_Pair.of(step, change) for step, change in state.pairs] if state else []
        self.kept: list[Tensor] = []  # logits at `weights`, one tensor per piece
        self._before: list[Tensor] = []  # logits at `previous`, likewise

    def state(self) -> PathState:
        """The current state, to continue from later."""
        return PathState(self.weights, self.previous, tuple((pair.step, pair.change) for pair in self.pairs))

    def solve(self, c: float) -> Solution:
        """Solve for C = `c`, to a relative gap of at most RELATIVE_GAP, or as far as float32 allows.

        Raises:
            Interrupted: if asked to stop; the path cannot be used any more.
        """
        strength = 1.0 / (c * len(self.labels))
        point = self._extrapolate(strength)
        inverse = 1.0 / (self.eigenvalues * point.spread + self.penalized * strength).clamp_min(1e-30)
        convexity = torch.full_like(self.weights, strength, dtype=torch.float64)
        convexity[:, -1:] = point.spread.double().clamp_max(strength)
        iteration, stalled = 0, 0
        gradient = self._gradient(point, strength)
        while True:
            objective = self._objective(point, strength)
            gap = float((gradient.double().square() / convexity).sum()) / 2
            if gap <= RELATIVE_GAP * objective or iteration == MAX_ITERATIONS or stalled == 3:
                relative = gap / objective if objective else 0.0  # f is 0 if there is only one class
                return Solution(c, self.weights, objective, point.entropy, relative, iteration)
            weights, slope = self.weights, point.slope
            point = self._search(_Line(self, self._direction(gradient, inverse, strength), strength))
            gradient = self._gradient(point, strength)
            self.pairs = [*self.pairs, _Pair.of(self.weights - weights, point.slope - slope)][-PAIRS:]
            iteration += 1
            stalled = stalled + 1 if objective - self._objective(point, strength) <= 1e-7 * objective else 0

    def _objective(self, point: _Point, strength: float) -> float:
        return point.entropy + 0.5 * strength * _inner(self.weights, self.weights)

    def _gradient(self, point: _Point, strength: float) -> Tensor:
        return torch.addcmul(point.slope, self.weights, self.penalized, value=strength)

    def _direction(self, gradient: Tensor, inverse: Tensor, strength: float) -> Tensor:
        """The L-BFGS two-loop recursion, starting with the diagonal `inverse` scaled by the last pair. Each pair stores
        the loss and the penalty separately, because λ changes along the path."""
        q = gradient.clone()
        curvatures = [max(pair.curvature + strength * pair.penalty, 1e-30) for pair in self.pairs]
        changes = [torch.addcmul(p.change, p.step, self.penalized, value=strength) for p in self.pairs]
        alphas = []
        for pair, change, curvature in zip(reversed(self.pairs), reversed(changes), reversed(curvatures), strict=True):
            alphas.append(_dot(pair.step, q) / curvature)
            q.add_(change, alpha=-alphas[-1])
        q *= inverse
        if changes:
            q *= curvatures[-1] / max(_dot(changes[-1], changes[-1] * inverse), 1e-30)
        for pair, change, curvature, alpha in zip(self.pairs, changes, curvatures, reversed(alphas), strict=True):
            q.add_(pair.step, alpha=alpha - _dot(change, q) / curvature)
        if _dot(gradient, q) > 0:
            return q.neg_()
        self.pairs = []  # not a descent direction: the pairs from other values of C do not fit here
        return -gradient * inverse

    def _extrapolate(self, strength: float) -> _Point:
        """Move to the minimum along the line through the last two solutions.

        The logits of the last solution are computed again: a sum over many steps would accumulate rounding errors, and
        a resumed path would differ.
        """
        before, self.previous = self.previous, self.weights
        along: list[Tensor] = []
        if self.keep_logits:
            if before is not None and not self._before:
                self._before = self._logits(before)
            self.kept = self._logits(self.weights)
            along = [now - then for now, then in zip(self.kept, self._before, strict=before is not None)]
            self._before = [logits.clone() for logits in self.kept]
        return self._evaluate() if before is None else self._search(_Line(self, self.weights - before, strength, along))

    def _search(self, line: _Line) -> _Point:
        """Move to the minimum along a line."""
        length = line.newton() if self.keep_logits else line.interpolated()
        self.weights = self.weights + length * line.direction
        for kept, along in zip(self.kept, line.kept, strict=True):
            kept.add_(along, alpha=length)
        return self._evaluate()

    # ---- passes over the images

    def pieces(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Number, rows and labels of each piece. Raises Interrupted if asked to stop."""
        labels = torch.split(self.labels, self.design.piece)
        for number, (rows, targets) in enumerate(zip(self.design.pieces(), labels, strict=True)):
            self.stop.check()
            yield number, rows, targets

    def _logits(self, weights: Tensor) -> list[Tensor]:
        """The (K, n) logits of each piece."""
        factor = self.design.piece_weights(weights)
        return [factor @ rows.T for _, rows, _ in self.pieces()]

    def _evaluate(self) -> _Point:
        """Loss and gradient at the current weights."""
        factor = None if self.kept else self.design.piece_weights(self.weights)
        entropy, slope = 0.0, None
        spread = torch.zeros(len(self.weights), dtype=torch.float64)
        for number, rows, labels in self.pieces():
            logits = self.kept[number] if factor is None else factor @ rows.T
            total, residual = _cross_entropy(logits, labels)
            entropy += total
            slope = residual @ rows if slope is None else slope.addmm_(residual, rows)
            absolute = residual.abs()
            spread += absolute.addcmul_(absolute, absolute, value=-1).sum(1)
        assert slope is not None, "a problem has images"
        count = len(self.labels)
        kappa = (spread / count).float().clamp_min_(1e-30)[:, None]
        return _Point(entropy / count, self.design.basis_gradient(slope).div_(count), kappa)


class _Line:
    """The function f along a search direction from the weights of a path. One pass over the images gives f' and f''."""

    def __init__(
        self, path: RegularizationPath, direction: Tensor, strength: float, along: list[Tensor] | None = None
    ) -> None:
        self.path, self.direction = path, direction
        self.factor = path.design.piece_weights(direction)
        self.linear = strength * _inner(path.weights, direction)
        self.quadratic = strength * _inner(direction, direction)
        self.kept = along or []  # logits along the direction, one tensor per piece, if the path keeps logits

    def newton(self) -> float:
        """The step length at which f' is zero, by Newton's method within a bracket."""
        length, low, high = 1.0, 0.0, float("inf")
        for _ in range(8):
            ((slope, curvature),) = self.at([length])
            low, high = (low, length) if slope > 0 else (length, high)
            wanted = length - slope / max(curvature, 1e-30)
            if not low < wanted < high:
                wanted = 0.5 * (low + high) if high < float("inf") else 2 * length + 1e-3
            if high == float("inf"):
                wanted = min(wanted, 4 * length + 1)
            if abs(wanted - length) < 0.15 * abs(length):
                return length
            length = wanted
        return length

    def interpolated(self) -> float:
        """The same if each pass is expensive: evaluate several lengths in one pass, and interpolate f' between the two
        where it changes its sign, with the cubic Hermite polynomial through f' and f''."""
        lengths = [0.0, 0.25, 0.5, 1.0, 2.0, 4.0]
        for _ in range(6):
            found = self.at(lengths)
            above = next((i for i, (slope, _) in enumerate(found) if slope > 0), None)
            if above == 0:  # no descent: f cannot decrease further in float32
                return 0.0
            if above is not None:
                return _zero(lengths[above - 1 : above + 1], found[above - 1 : above + 1])
            lengths = [lengths[-1] * factor for factor in (1.0, 2.0, 4.0, 16.0)]
        return lengths[0]

    def at(self, lengths: Sequence[float]) -> list[tuple[float, float]]:
        """f' and f'' at each of the step lengths."""
        path, count = self.path, len(self.path.labels)
        factor = None if path.kept else path.design.piece_weights(path.weights)
        sums = [[0.0, 0.0] for _ in lengths]
        for number, rows, labels in path.pieces():
            logits = path.kept[number] if factor is None else factor @ rows.T
            along = self._along(number, rows)
            margins = along - along[labels, torch.arange(len(labels))]
            for entry, length in zip(sums, lengths, strict=True):
                residual = _cross_entropy(torch.add(logits, along, alpha=length), labels)[1]
                weighted = residual.mul_(margins)  # 0 in the row of the label, whose margin is 0
                mean = weighted.sum(0)
                entry[0] += float(mean.double().sum())
                entry[1] += float(weighted.mul_(margins).sum(0).sub_(mean * mean).double().sum())
        return [
            (slope / count + self.linear + length * self.quadratic, curvature / count + self.quadratic)
            for (slope, curvature), length in zip(sums, lengths, strict=True)
        ]

    def _along(self, number: int, rows: Tensor) -> Tensor:
        """(K, n) logits along the direction."""
        if number < len(self.kept):
            return self.kept[number]
        made = self.factor @ rows.T
        if self.path.keep_logits:
            self.kept.append(made)
        return made


def _zero(lengths: Sequence[float], found: Sequence[tuple[float, float]]) -> float:
    """The zero of the cubic polynomial with these values and derivatives at two lengths, by bisection."""
    (low, high), ((f0, d0), (f1, d1)) = lengths, found
    span = high - low
    begin, end = 0.0, 1.0
    for _ in range(30):
        t = 0.5 * (begin + end)
        value = (
            f0 * (1 + 2 * t) * (1 - t) ** 2 + span * d0 * t * (1 - t) ** 2
            + f1 * t * t * (3 - 2 * t) + span * d1 * t * t * (t - 1)
        )  # fmt: skip
        begin, end = (begin, t) if value > 0 else (t, end)
    return low + span * 0.5 * (begin + end)


@dataclass(frozen=True)
class _Pair:
    """A step, and the change of the gradient of the mean cross-entropy over it."""

    step: Tensor
    change: Tensor
    curvature: float  #: step · change
    penalty: float  #: step · step, without the intercepts

    @classmethod
    def of(cls, step: Tensor, change: Tensor) -> _Pair:
        return cls(step, change, _dot(step, change), _inner(step, step))


def _inner(a: Tensor, b: Tensor) -> float:
    """The inner product without the intercepts."""
    return _dot(a, b) - float(a[:, -1].double() @ b[:, -1].double())


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.reshape(-1), b.reshape(-1)))


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """The summed cross-entropy of (K, n) logits, and its gradient p - onehot, (K, n).

    Computed from the margins M = L - L_y over the other classes, S = Σ exp M: CE = log(1 + S), p_y - 1 = -S / (1 + S).
    The log_softmax of float32 has a resolution of only 1e-7, and at large C the loss can be as small as that.
    """
    places = torch.arange(len(labels))
    margins = logits - logits[labels, places]
    margins[labels, places] = -torch.inf
    top = margins.amax(0).clamp_min_(0)
    others = margins.sub_(top).exp_()
    total = others.sum(0)
    whole = torch.exp(-top) + total
    entropy = top + torch.where(top == 0, torch.log1p(total), torch.log(whole))
    residual = others.div_(whole)
    residual[labels, places] = -(total / whole)
    return float(entropy.double().sum()), residual
