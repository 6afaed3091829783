"""Multinomial logistic regression for ascending values of C, each solved to a certified optimum.

The objective is scikit-learn's, C · Σ CE + ½‖W‖² with an intercept that is not penalized, divided by C · N:

    f(W) = mean CE(W) + λ/2 ‖W‖²,   λ = 1 / (C · N).

With two classes, scikit-learn has a single weight vector w, the difference of ours, and ½‖w‖² is ‖W‖²: λ is twice as
large. Classes without images are left out: their weights are zero and their intercept is -inf.

Features are centered, divided by one number and rotated into the eigenbasis of their covariance (`Basis`). This changes
an L2-penalized problem by a factor of λ only, and it makes the Hessian nearly diagonal. L-BFGS starts from an
extrapolation of the last two solutions, with the inverse Hessian approximated by the diagonal
1 / (eigenvalue_j · κ_k + λ), κ_k = mean p_k (1 - p_k). The line search is exact (trex/probing/line.py). An iteration
takes two products of N x D x K numbers: of W or of the direction with the features, and of the residuals with them.

The iteration ends when f is proven to be close to its minimum f*, not when a step is small. With the best intercepts, f
is a λ-strongly convex function of W, so f - f* ≤ ‖∇f‖² / (2λ) (Boyd and Vandenberghe, eq. 9.9); `upper_bound` adds what
is missing to the best intercepts. The bound is compared with what the weights have changed (`Solution.gap`): then it
does not depend on the scale of the features. At a small C, f hardly differs from the entropy of the class frequencies,
and W = 0 would be within a thousandth of f.

Images are processed in pieces. If the logits are kept in memory, the first product is that of the direction: the logits
of W then follow by an addition, and their rounding errors are those of a step, not those of W. So a fast path may
compute its products in bfloat16. It changes to the type of its design, for good, where bfloat16 ends its progress.
`solve_precisely` does the same with the gradient: from one in the type of the design, bfloat16 computes the changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from trex.interruption import StopRequest
from trex.probing.design import CPU, Design, add_product
from trex.probing.lbfgs import Directions, Pair, dot, inner, quick_inner
from trex.probing.line import Line, Part, Residual
from trex.probing.memory import curvature_pairs, sample_images
from trex.probing.softmax import NEAR, cross_entropy, near_prior
from trex.probing.solution import SEARCH, Accuracy, PathState, Point, Solution, approach_to, strength_of, upper_bound

#: The iteration ends if the bound has not improved over this number of iterations and f no longer decreases: the
#: rounding errors of the gradient are then larger than what the bound asks for.
STALLED = 10
#: The same for a fast path, without regard to f; it then changes to a more precise type.
STALLED_FAST = 16


class RegularizationPath:
    """Solves for one value of C after another, in ascending order, each starting from the previous solutions.

    A path that is created with the `state` of another path continues exactly like that path, bit for bit.
    """

    def __init__(
        self, design: Design, labels: np.ndarray, classes: int, stop: StopRequest, keep_logits: bool = True,
        state: PathState | None = None, fast: bool = False,
    ) -> None:  # fmt: skip
        """A path for the images of `design`.

        Args:
            design: the features. Its type is that of all computations.
            labels: (N,) int64, in 0 … `classes` - 1.
            classes: number of classes; some may have no images.
            stop: checked for each piece.
            keep_logits: whether to keep the logits of all images in memory.
            state: the state of another path, to continue from.
            fast: whether the products are computed in bfloat16, as far as that is precise enough.
        """
        self.design, self.classes, self.stop, self.keep_logits = design, classes, stop, keep_logits
        device, dtype = design.device, design.dtype
        present, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.present, self.labels = torch.from_numpy(present).to(device), torch.from_numpy(places).to(device)
        self.shares = torch.from_numpy(counts / len(labels)).to(device, dtype)
        prior = torch.from_numpy(np.log(counts / counts.max()))  # 0 for the most frequent classes: their logits are W x
        self.prior: Tensor | None = prior.to(device, dtype) if prior.any() else None
        self.prior_entropy = float(-(counts / len(labels)) @ np.log(counts / len(labels)))
        self.eigenvalues = torch.cat([design.basis.values, design.basis.values.new_ones(1)]).to(dtype)
        self.penalized = torch.ones(design.width, dtype=dtype, device=device)
        self.penalized[-1] = 0
        start = PathState(torch.zeros(len(present), design.width, dtype=dtype), None, (), None, fast)
        state = (state or start).to(device)
        self.weights, self.previous, self.point, self.fast = state.weights, state.previous, state.point, state.fast
        self.pairs = [Pair.of(step, change) for step, change in state.pairs]
        self.memory = curvature_pairs(len(present), design.width)
        self.kept: list[Tensor] = []  # logits at `weights`, one tensor per piece, without `prior`
        self._unfinished: float | None = None  # the C of the last solution, if `kept` are its logits

    def state(self) -> PathState:
        """The current state, to continue from later."""
        pairs = tuple((pair.step, pair.change) for pair in self.pairs)
        return PathState(self.weights, self.previous, pairs, self.point, self.fast).to(CPU)

    def strength(self, c: float) -> float:
        """λ for the features divided by their scale."""
        return strength_of(c, len(self.labels), len(self.present), self.design.basis.scale)

    def approach(self, c: float) -> list[float]:
        """Values of C to solve before C = `c`, as in `approach_to`."""
        return approach_to(c, self.strength(c))

    def solve(self, c: float, accuracy: Accuracy = SEARCH) -> Solution:
        """Solve for C = `c`, or as far as the type of the design allows.

        Raises:
            Interrupted: if asked to stop; the path cannot be used any more.
        """
        if len(self.present) < 2:
            return Solution(c, self.all_weights(), 0.0, 0.0, 0.0, 0.0, 0)
        strength = self.strength(c)
        point = self.point
        if point is not None:  # the last solution may be accurate enough here, too
            _, bound = self._gradient(point, strength)
            solution = self._solution(c, bound, self.weights, point, self._penalty(strength), 0)
            if solution.gap <= accuracy.gap:
                return solution
        if point is None or c != self._unfinished:
            point = self._extrapolate(point, strength)
        return self._iterate(c, strength, point, accuracy)

    def solve_precisely(self, c: float, accuracy: Accuracy) -> Solution:
        """Solve for C = `c` from the last solution, as accurately as the type of the design allows. Raises as `solve`.

        bfloat16 is not precise enough for the gradient, but it is for its change over a step, which becomes smaller and
        smaller. The result is checked in the type of the design.
        """
        if len(self.present) < 2:
            return self.solve(c, accuracy)
        strength, before = self.strength(c), float("inf")
        point = self._recompute()
        while self.fast and self.keep_logits:
            bound = self._gradient(point, strength)[1]
            solution = self._solution(c, bound, self.weights, point, self._penalty(strength), 0)
            if solution.gap <= accuracy.gap or solution.gap > 0.5 * before:
                break
            before = solution.gap
            self._iterate(c, strength, point, replace(accuracy, gap=0.9 * accuracy.gap), relative=True)
            point = self._recompute()
        self.fast, self.previous = False, None
        return self._iterate(c, strength, point, accuracy)

    def _iterate(self, c: float, strength: float, point: Point, accuracy: Accuracy, relative: bool = False) -> Solution:
        """L-BFGS from the given point. `relative`: bfloat16 computes the changes of the gradient."""
        directions = Directions(self._inverse(point, strength), self.penalized * strength)
        iteration, best, since, before = 0, (float("inf"), self.weights, point, 0.0), 0, (0.0, 0.0)
        while True:
            gradient, bound = self._gradient(point, strength)
            penalty = self._penalty(strength)
            now = point.entropy + penalty, point.excess + penalty  # f with and without the entropy of the frequencies
            better = bound < 0.95 * best[0] or (not self.fast and self._decreases(before, now))
            since, before = 0 if better or iteration == 0 else since + 1, now
            best = min(best, (bound, self.weights, point, penalty), key=lambda found: found[0])
            solution = self._solution(c, *best, iteration)
            if solution.gap <= accuracy.gap or iteration == accuracy.iterations:
                break
            if since >= (STALLED_FAST if self.fast else STALLED):
                if not self.fast:
                    break
                self.weights, self.fast = best[1], False
                point = self._recompute()
                best, since, before = (float("inf"), self.weights, point, 0.0), 0, (0.0, 0.0)
                continue
            weights, slope = self.weights, point.slope
            found = self._direction(gradient, directions)
            point = self._search(point, found, strength, relative and self.fast)
            self.pairs = [*self.pairs, Pair.of(self.weights - weights, point.slope - slope)][-self.memory :]
            iteration += 1
        self._unfinished = c if best[1] is self.weights else None
        self.weights, self.point = best[1:3]
        return solution

    def _recompute(self) -> Point:
        """Compute the kept logits and the point of the current weights in the type of the design."""
        fast, self.fast = self.fast, False
        self.kept = self._logits(self.weights) if self.keep_logits else []
        self.point, self.fast = self._evaluate(), fast
        return self.point

    def _inverse(self, point: Point, strength: float) -> Tensor:
        """The diagonal approximation of the inverse Hessian, (K, r + 1)."""
        tiny = torch.finfo(self.design.dtype).tiny
        return 1.0 / (self.eigenvalues * point.spread + self.penalized * strength).clamp_min(tiny)

    def _gradient(self, point: Point, strength: float) -> tuple[Tensor, float]:
        """The gradient of f at `weights`, whose `point` is given, and an upper bound of f - f*."""
        gradient = torch.addcmul(point.slope, self.weights, self.penalized, value=strength)
        return gradient, upper_bound(gradient, point, strength, self.design.basis.radius)

    def _penalty(self, strength: float) -> float:
        """The penalty in f at `weights`."""
        return 0.5 * strength * inner(self.weights, self.weights)

    def _decreases(self, before: tuple[float, float], now: tuple[float, float]) -> bool:
        """Whether f, from and to the given values with and without the entropy of the class frequencies, decreases by
        more than its rounding error; of the two values, the smaller one has the smaller error."""
        then, value = min(zip(before, now, strict=True), key=lambda pair: abs(pair[1]))
        return then - value > torch.finfo(self.design.dtype).eps * abs(value)

    def _solution(
        self, c: float, bound: float, weights: Tensor, point: Point, penalty: float, iterations: int
    ) -> Solution:
        objective, gain = point.entropy + penalty, -point.excess - penalty
        whole = max(penalty, min(objective, gain) if gain > 1e-3 * self.prior_entropy else 0.0)
        gap = bound / whole if whole else 0.0 if not bound else float("inf")
        return Solution(c, self.all_weights(weights), objective, point.entropy, penalty, gap, iterations)

    def all_weights(self, weights: Tensor | None = None) -> Tensor:
        """The weights of all classes, also of those without images: (K, r + 1)."""
        found = torch.zeros(self.classes, self.design.width, dtype=self.design.dtype, device=self.design.device)
        found[:, -1] = -torch.inf
        found[self.present] = self.weights if weights is None else weights
        if self.prior is not None:
            found[self.present, -1] += self.prior
        return found

    def _direction(self, gradient: Tensor, directions: Directions) -> Tensor:
        found = directions.of(self.pairs, gradient)
        if found is not None:
            return found
        self.pairs = []  # the pairs from other values of C do not fit here
        return -gradient * directions.inverse

    def _extrapolate(self, point: Point | None, strength: float) -> Point:
        """Move to the minimum along the line through the last two solutions.

        The logits of the last solution are computed again: a sum over many steps would accumulate rounding errors, and
        a resumed path would differ.
        """
        before, self.previous = self.previous, self.weights if point is not None else None
        self.kept = self._logits(self.weights) if self.keep_logits else []
        if point is None:
            return self._evaluate()
        return point if before is None else self._search(point, self.weights - before, strength)

    def _search(self, point: Point, direction: Tensor, strength: float, relative: bool = False) -> Point:
        """Move from `weights`, at `point`, to the minimum along a direction. `relative`: as in `_iterate`."""
        linear, quadratic = (strength * quick_inner(one, direction) for one in (self.weights, direction))
        parts = self._parts(direction)
        slope = dot(point.slope, direction) if self.is_sampled else None
        line = Line(parts, self.prior, linear, quadratic, slope, self.stop)
        length, residuals = line.minimum()
        self.weights = self.weights + length * direction
        if not self.keep_logits:
            return self._evaluate()
        last = point if relative else None
        if self.is_sampled:
            return self._evaluate(length * direction, last)
        before = [cross_entropy(part.logits, part.labels, self.prior)[1] for part in parts] if relative else ()
        for part in parts:
            part.logits.add_(part.along, alpha=length)
        return self._evaluate(last=last, known=residuals, before=before)

    @property
    def is_sampled(self) -> bool:
        """Whether a line search uses a sample of the images."""
        return len(self._places) < len(self.labels)

    @cached_property
    def _places(self) -> np.ndarray:
        """The images of a line search, int64: all if there are few, else some at equal distances."""
        size = sample_images(len(self.present))
        few = self.keep_logits and len(self.labels) <= 4 * size
        return np.arange(0, len(self.labels), 1 if few else -(-len(self.labels) // size))

    @cached_property
    def _sample(self) -> tuple[Design, Tensor]:
        """The features and labels of the images of a line search."""
        return self.design.sample(self._places), self.labels[torch.from_numpy(self._places).to(self.labels.device)]

    def _parts(self, direction: Tensor) -> list[Part]:
        """The images of a line search."""
        if not self.is_sampled and self.keep_logits:
            along = self._logits(direction, self.type)
            targets = torch.split(self.labels, self.design.piece)
            return [Part.of(*all_of) for all_of in zip(self.kept, along, targets, strict=True)]
        design, labels = self._sample
        start, factor = self._logits_of_sample(design), design.factor(direction, self.type)
        pieces = zip(design.pieces(self.type), torch.split(labels, design.piece), strict=True)
        found = []
        for logits, (features, part) in zip(start, pieces, strict=True):
            self.stop.check()
            found.append(Part.of(logits, (factor @ features.T).to(design.dtype), part))
        return found

    def _logits_of_sample(self, design: Design) -> list[Tensor]:
        """The (K, n) logits of each piece of the sample at the current weights."""
        if not self.keep_logits:
            factor = design.piece_weights(self.weights)
            return [factor @ rows.T for rows in design.pieces()]
        step = int(self._places[1])
        columns = [part[:, -number * self.design.piece % step :: step] for number, part in enumerate(self.kept)]
        return list(torch.split(torch.cat(columns, dim=1), design.piece, dim=1))

    # ---- passes over the images

    @property
    def type(self) -> torch.dtype:
        """The type of the products."""
        return torch.bfloat16 if self.fast else self.design.dtype

    def pieces(self, dtype: torch.dtype | None = None) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Number, rows and labels of each piece. Raises Interrupted if asked to stop."""
        labels = torch.split(self.labels, self.design.piece)
        for number, (rows, targets) in enumerate(zip(self.design.pieces(dtype or self.type), labels, strict=True)):
            self.stop.check()
            yield number, rows, targets

    def _logits(self, weights: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
        """The (K, n) logits of each piece; the product is computed in `dtype` (None: the type of the design)."""
        dtype = dtype or self.design.dtype
        factor = self.design.factor(weights, dtype)
        return [(factor @ rows.T).to(weights.dtype) for _, rows, _ in self.pieces(dtype)]

    def _pieces_with_logits(
        self, step: Tensor | None, relative: bool = False
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
        """Logits, rows and labels of each piece, at the current weights, and the residuals before the step.

        Args:
            step: the last change of the weights, if the kept logits do not have it yet.
            relative: whether the residuals before it are wanted, else None.
        """
        if self.kept:
            factor = None if step is None else self.design.factor(step, self.type)
            for number, rows, labels in self.pieces():
                before = cross_entropy(self.kept[number], labels, self.prior)[1] if relative else None
                if factor is not None:
                    self.kept[number].add_(factor @ rows.T)
                yield self.kept[number], rows, labels, before
            return
        factor = self.design.piece_weights(self.weights)
        for _, rows, labels in self.pieces(self.design.dtype):
            yield factor @ rows.T, rows.to(self.type), labels, None

    def _evaluate(
        self, step: Tensor | None = None, last: Point | None = None, known: Sequence[Residual] = (),
        before: Sequence[Tensor] = (),
    ) -> Point:  # fmt: skip
        """Loss and gradient at the current weights.

        Args:
            step: as in `_pieces_with_logits`.
            last: the point before the step. If it is given, its gradient is corrected by the change over the step.
            known: `cross_entropy` of each piece at the current weights, if the line search has computed it last.
            before: the residuals of each piece at `last`, if they are known.
        """
        if self._is_near_prior():
            return self._evaluate_near_prior(step)
        entropy = torch.zeros((), dtype=torch.float64, device=self.design.device)
        slope = torch.zeros(())
        spread, intercepts = entropy.new_zeros(2, len(self.weights))
        pieces = self._pieces_with_logits(step, relative=last is not None and not before)
        for number, (logits, rows, labels, computed) in enumerate(pieces):
            total, residual = known[number] if known else cross_entropy(logits, labels, self.prior)
            former = before[number] if before else computed
            entropy += total
            slope = add_product(slope, residual if former is None else residual - former, rows)
            intercepts += residual.sum(1, dtype=torch.float64)  # more precise than the product with a column of ones
            absolute = residual.abs_()
            spread += absolute.addcmul_(absolute, absolute, value=-1).sum(1)
        count = len(self.labels)
        kappa = (spread / count).to(self.design.dtype).clamp_min_(torch.finfo(self.design.dtype).tiny)[:, None]
        mean = float(entropy) / count
        slope = self.design.basis_gradient(slope).div_(count).add_(0 if last is None else last.slope)
        slope[:, -1] = intercepts / count
        return Point(mean, mean - self.prior_entropy, slope, kappa)

    def _is_near_prior(self) -> bool:
        """Whether no image has logits that differ by more than NEAR from those of the class frequencies."""
        lengths = self.weights[:, :-1].double().norm(dim=1) * self.design.basis.radius + self.weights[:, -1].abs()
        return float(lengths.max()) <= NEAR

    def _evaluate_near_prior(self, step: Tensor | None) -> Point:
        """`_evaluate` for logits whose differences are smaller than the rounding error of the class frequencies."""
        excess = torch.zeros((), dtype=torch.float64, device=self.design.device)
        slope = torch.zeros(())
        for logits, rows, labels, _ in self._pieces_with_logits(step):
            total, change = near_prior(logits, labels, self.shares)
            excess += total
            slope = add_product(slope, change, rows)
        count = len(self.labels)
        slope = self.design.basis_gradient(slope).div_(count) + self._prior_slope
        mean, spread = float(excess) / count, (self.shares * (1 - self.shares))[:, None]
        return Point(self.prior_entropy + mean, mean, slope, spread)

    @cached_property
    def _prior_slope(self) -> Tensor:
        """The gradient of the mean cross-entropy at W = 0, (K, r + 1): mean (π - onehot) xᵀ, 0 for the intercepts."""
        sums = torch.zeros(())
        for _, rows, labels in self.pieces(self.design.dtype):
            zeros = (len(self.weights), rows.shape[1])
            sums = sums if sums.ndim else torch.zeros(zeros, dtype=torch.float64, device=rows.device)
            sums.index_add_(0, labels, rows.double())
        slope = (self.shares.double()[:, None] * sums.sum(0) - sums) / len(self.labels)
        slope[:, -1] = 0
        return self.design.basis_gradient(slope).to(self.design.dtype)
