"""Multinomial logistic regression for ascending values of C, each solved to a certified optimum.

The objective is scikit-learn's, C · Σ CE + ½‖W‖² with an intercept that is not penalized, divided by C · N:

    f(W) = mean CE(W) + λ/2 ‖W‖²,   λ = 1 / (C · N).

With two classes, scikit-learn has a single weight vector w, the difference of ours, and ½‖w‖² is ‖W‖²: λ is twice as
large. Classes without images are left out: their weights are zero and their intercept is -inf.

Features are centered, divided by one number and rotated into the eigenbasis of their covariance (`Basis`). This changes
an L2-penalized problem by a factor of λ only, and it makes the Hessian nearly diagonal. L-BFGS starts from an
extrapolation of the last two solutions, with the inverse Hessian approximated by the diagonal
1 / (eigenvalue_j · κ_k + λ), κ_k = mean p_k (1 - p_k). The line search is Newton's method on the logits: with L = W Rᵀ
and dL = d Rᵀ, a complete line search costs one product.

The iteration ends when f is proven to be close to its minimum f*, not when a step is small. With the best intercepts, f
is a λ-strongly convex function of W, so f - f* ≤ ‖∇f‖² / (2λ) (Boyd and Vandenberghe, eq. 9.9); `_bound` adds what is
missing to the best intercepts. The bound is compared with what the weights have changed (`Solution.gap`), and therefore
does not depend on the scale of the features: at a small C, f hardly differs from the entropy of the class frequencies,
and W = 0 would be within a thousandth of f.

Images are processed in pieces. If the logits of all images do not fit into memory, they are computed again when needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from trex.interruption import StopRequest
from trex.probing.design import Design
from trex.probing.lbfgs import Pair, direction, inner
from trex.probing.memory import curvature_pairs
from trex.probing.softmax import NEAR, cross_entropy, interpolated_zero, near_prior
from trex.probing.solution import SEARCH, Accuracy, PathState, Point, Solution

#: The iteration ends if the bound has not improved over this number of iterations and f no longer decreases: the
#: rounding errors of the gradient are then larger than what the bound asks for.
STALLED = 10


class RegularizationPath:
    """Solves for one value of C after another, in ascending order, each starting from the previous solutions.

    A path that is created with the `state` of another path continues exactly like that path, bit for bit.
    """

    def __init__(
        self, design: Design, labels: np.ndarray, classes: int, stop: StopRequest, keep_logits: bool = True,
        state: PathState | None = None,
    ) -> None:  # fmt: skip
        """A path for the images of `design`.

        Args:
            design: the features. Its type is that of all computations.
            labels: (N,) int64, in 0 … `classes` - 1.
            classes: number of classes; some may have no images.
            stop: checked for each piece.
            keep_logits: whether to keep the logits of all images in memory.
            state: the state of another path, to continue from.
        """
        self.design, self.classes, self.stop, self.keep_logits = design, classes, stop, keep_logits
        present, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.present, self.labels = torch.from_numpy(present), torch.from_numpy(places)
        self.shares = torch.from_numpy(counts / len(labels)).to(design.dtype)
        prior = torch.from_numpy(np.log(counts / counts.max()))  # 0 for the most frequent classes: their logits are W x
        self.prior: Tensor | None = prior.to(design.dtype) if prior.any() else None
        self.prior_entropy = float(-(counts / len(labels)) @ np.log(counts / len(labels)))
        self.eigenvalues = torch.cat([design.basis.values, torch.ones(1)]).to(design.dtype)
        self.penalized = torch.ones(design.width, dtype=design.dtype)
        self.penalized[-1] = 0
        start = torch.zeros(len(present), design.width, dtype=design.dtype)
        self.weights: Tensor = state.weights if state else start
        self.previous: Tensor | None = state.previous if state else None
        self.pairs = [Pair.of(step, change) for step, change in state.pairs] if state else []
        self.memory = curvature_pairs(len(present), design.width)
        self.kept: list[Tensor] = []  # logits at `weights`, one tensor per piece, without `prior`
        self._before: list[Tensor] = []  # logits at `previous`, likewise

    def state(self) -> PathState:
        """The current state, to continue from later."""
        return PathState(self.weights, self.previous, tuple((pair.step, pair.change) for pair in self.pairs))

    def strength(self, c: float) -> float:
        """λ for the features divided by their scale."""
        return (2 if len(self.present) == 2 else 1) / (c * len(self.labels) * self.design.basis.scale**2)

    def approach(self, c: float) -> list[float]:
        """Values of C to solve before C = `c`, which is slow to solve from a cold start if λ is small. Ascending."""
        steps: list[float] = []
        while self.strength(c) < 0.1:
            c /= 10
            steps.append(c)
        return steps[::-1]

    def solve(self, c: float, accuracy: Accuracy = SEARCH) -> Solution:
        """Solve for C = `c`, or as far as the type of the design allows.

        Raises:
            Interrupted: if asked to stop; the path cannot be used any more.
        """
        if len(self.present) < 2:
            return Solution(c, self.all_weights(), 0.0, 0.0, 0.0, 0.0, 0)
        strength = self.strength(c)
        point = self._extrapolate(strength)
        tiny = torch.finfo(self.design.dtype).tiny
        inverse = 1.0 / (self.eigenvalues * point.spread + self.penalized * strength).clamp_min(tiny)
        iteration, best, since, before = 0, (float("inf"), self.weights, point), 0, (0.0, 0.0)
        while True:
            gradient = torch.addcmul(point.slope, self.weights, self.penalized, value=strength)
            bound = self._bound(gradient, point, strength)
            penalty = 0.5 * strength * inner(self.weights, self.weights)
            now = (point.entropy + penalty, point.excess + penalty)
            since = 0 if bound < 0.95 * best[0] or iteration == 0 or self._decreases(before, now) else since + 1
            before = now
            best = min(best, (bound, self.weights, point), key=lambda found: found[0])
            solution = self._solution(c, strength, *best, iteration)
            if solution.gap <= accuracy.gap or since >= STALLED or iteration == accuracy.iterations:
                self.weights = best[1]
                return solution
            weights, slope = self.weights, point.slope
            point = self._search(_Line(self, self._direction(gradient, inverse, strength), strength))
            self.pairs = [*self.pairs, Pair.of(self.weights - weights, point.slope - slope)][-self.memory :]
            iteration += 1

    def _decreases(self, before: tuple[float, float], now: tuple[float, float]) -> bool:
        """Whether f, from and to the given values with and without the entropy of the class frequencies, decreases by
        more than its rounding error; of the two values, the smaller one has the smaller error."""
        then, value = min(zip(before, now, strict=True), key=lambda pair: abs(pair[1]))
        return then - value > torch.finfo(self.design.dtype).eps * abs(value)

    def _bound(self, gradient: Tensor, point: Point, strength: float) -> float:
        """An upper bound of f - f*.

        f - λ/2 ‖W‖² is convex, so f decreases by at most |∇W| w + |∇b| b - λ/2 w² on the way to the optimum, where w
        and b are the changes of weights and intercepts. Either b ≤ 2 ρ w, with the greatest length ρ of a feature: then
        this is at most (|∇W| + 2 ρ |∇b|)² / (2λ). Or the intercepts change more than half of each logit: then their
        curvature, approximated by the diagonal κ of their Hessian, limits it to |∇W|² / (2λ) + 2 Σ ∇b² / κ.
        """
        intercepts = gradient[:, -1].double()
        missing = 2 * float((intercepts.square() / point.spread[:, 0].double()).sum())
        shift = 2 * self.design.basis.radius * float(intercepts.norm())
        length = float(gradient[:, :-1].double().norm()) + shift
        return missing + length * length / (2 * strength)

    def _solution(
        self, c: float, strength: float, bound: float, weights: Tensor, point: Point, iterations: int
    ) -> Solution:
        penalty = 0.5 * strength * inner(weights, weights)
        objective, gain = point.entropy + penalty, -point.excess - penalty
        whole = max(penalty, min(objective, gain) if gain > 1e-3 * self.prior_entropy else 0.0)
        gap = bound / whole if whole else 0.0 if not bound else float("inf")
        return Solution(c, self.all_weights(weights), objective, point.entropy, penalty, gap, iterations)

    def all_weights(self, weights: Tensor | None = None) -> Tensor:
        """The weights of all classes, also of those without images: (K, r + 1)."""
        found = torch.zeros(self.classes, self.design.width, dtype=self.design.dtype)
        found[:, -1] = -torch.inf
        found[self.present] = self.weights if weights is None else weights
        if self.prior is not None:
            found[self.present, -1] += self.prior
        return found

    def _direction(self, gradient: Tensor, inverse: Tensor, strength: float) -> Tensor:
        found = direction(self.pairs, gradient, inverse, self.penalized * strength)
        if found is not None:
            return found
        self.pairs = []  # the pairs from other values of C do not fit here
        return -gradient * inverse

    def _extrapolate(self, strength: float) -> Point:
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

    def _search(self, line: _Line) -> Point:
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

    def _evaluate(self) -> Point:
        """Loss and gradient at the current weights."""
        if self._is_near_prior():
            return self._evaluate_near_prior()
        factor = None if self.kept else self.design.piece_weights(self.weights)
        entropy, slope = 0.0, torch.zeros(())
        spread, intercepts = torch.zeros(2, len(self.weights), dtype=torch.float64)
        for number, rows, labels in self.pieces():
            logits = self.kept[number] if factor is None else factor @ rows.T
            total, residual = cross_entropy(logits, labels, self.prior)
            entropy += total
            slope = slope.addmm_(residual, rows) if slope.ndim else residual @ rows
            intercepts += residual.sum(1, dtype=torch.float64)  # more precise than the product with a column of ones
            absolute = residual.abs_()
            spread += absolute.addcmul_(absolute, absolute, value=-1).sum(1)
        count = len(self.labels)
        tiny = torch.finfo(self.design.dtype).tiny
        kappa = (spread / count).to(self.design.dtype).clamp_min_(tiny)[:, None]
        entropy /= count
        slope = self.design.basis_gradient(slope).div_(count)
        slope[:, -1] = intercepts / count
        return Point(entropy, entropy - self.prior_entropy, slope, kappa)

    def _is_near_prior(self) -> bool:
        """Whether no image has logits that differ by more than NEAR from those of the class frequencies."""
        lengths = self.weights[:, :-1].double().norm(dim=1) * self.design.basis.radius + self.weights[:, -1].abs()
        return float(lengths.max()) <= NEAR

    def _evaluate_near_prior(self) -> Point:
        """`_evaluate` for logits whose differences are smaller than the rounding error of the class frequencies."""
        factor = None if self.kept else self.design.piece_weights(self.weights)
        excess, slope = 0.0, torch.zeros(())
        for number, rows, labels in self.pieces():
            logits = self.kept[number] if factor is None else factor @ rows.T
            total, change = near_prior(logits, labels, self.shares)
            excess += total
            slope = slope.addmm_(change, rows) if slope.ndim else change @ rows
        count = len(self.labels)
        slope = self.design.basis_gradient(slope).div_(count) + self._prior_slope
        return Point(
            self.prior_entropy + excess / count, excess / count, slope, (self.shares * (1 - self.shares))[:, None]
        )

    @cached_property
    def _prior_slope(self) -> Tensor:
        """The gradient of the mean cross-entropy at W = 0, (K, r + 1): mean (π - onehot) xᵀ, 0 for the intercepts."""
        sums = torch.zeros(())
        for _, rows, labels in self.pieces():
            sums = sums if sums.ndim else torch.zeros(len(self.weights), rows.shape[1], dtype=torch.float64)
            sums.index_add_(0, labels, rows.double())
        slope = (self.shares.double()[:, None] * sums.sum(0) - sums) / len(self.labels)
        slope[:, -1] = 0
        return self.design.basis_gradient(slope).to(self.design.dtype)


class _Line:
    """The function f along a search direction from the weights of a path. One pass over the images gives f' and f''."""

    def __init__(
        self, path: RegularizationPath, direction: Tensor, strength: float, along: list[Tensor] | None = None
    ) -> None:
        self.path, self.direction = path, direction
        self.factor = path.design.piece_weights(direction)
        self.linear = strength * inner(path.weights, direction)
        self.quadratic = strength * inner(direction, direction)
        self.kept = along or []  # logits along the direction, one tensor per piece, if the path keeps logits

    def newton(self) -> float:
        """The step length at which f' is zero, by Newton's method within a bracket."""
        length, low, high = 1.0, 0.0, float("inf")
        for _ in range(8):
            ((slope, curvature),) = self.at([length])
            low, high = (low, length) if slope > 0 else (length, high)
            wanted = length - slope / max(curvature, 1e-300)
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
                return interpolated_zero((lengths[above - 1], lengths[above]), (found[above - 1], found[above]))
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
                residual = cross_entropy(torch.add(logits, along, alpha=length), labels, path.prior)[1]
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
