"""Random classification problems, and their optimum by Newton's method in float64, independent of the exact solver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """Features and labels."""

    name: str
    train: np.ndarray  #: (n, D) float32
    labels: np.ndarray  #: (n,) int64
    test: np.ndarray  #: (m, D) float32
    test_labels: np.ndarray  #: (m,) int64
    classes: int


def random_case(seed: int) -> Case:
    """A problem with some of the properties that make a fit difficult, chosen at random."""
    chance = np.random.default_rng(seed)
    k, d = int(chance.integers(2, 6)), int(chance.integers(3, 13))
    n = int(chance.integers(30, 120))
    has = dict(
        zip(("few", "imbalanced", "absent", "duplicates", "constant", "offset"), chance.random(6) < 0.4, strict=True)
    )
    if has["few"]:
        k = min(k, 4)
        n, d = int(chance.integers(3 * k, 15)), int(chance.integers(16, 21))
    scale = 10 ** chance.uniform(-8, 8)
    shares = chance.dirichlet(np.full(k, 0.7)) * 0.9 + 0.1 / k if has["imbalanced"] else np.full(k, 1 / k)
    columns = 10 ** chance.uniform(-1.5, 0, d)
    means = chance.normal(size=(k, d)) * 10 ** chance.uniform(-2, 0.3)

    def draw(images: int) -> tuple[np.ndarray, np.ndarray]:
        labels = chance.choice(k, images, p=shares) if has["imbalanced"] else np.arange(images) % k
        labels[:k] = np.arange(k)
        return (means[labels] + chance.normal(size=(images, d))) * columns, labels

    (train, labels), (test, test_labels) = draw(n), draw(400)
    if has["absent"] and len(np.unique(labels)) > 2:
        kept = labels != k - 1
        train, labels = train[kept], labels[kept]
    if has["duplicates"]:
        again = labels.copy()
        changed = chance.random(len(labels)) < 0.1
        again[changed] = labels[chance.permutation(len(labels))][changed]
        train, labels = np.concatenate([train, train]), np.concatenate([labels, again])
    if has["constant"]:
        train[:, ::3], test[:, ::3] = 0.7, 0.7
    shift = chance.normal(size=d) * (100 if has["offset"] else 1)
    name = f"{seed}: " + " ".join([f"scale {scale:.0e}", *(key for key, value in has.items() if value)])
    train, test = (((x + shift) * scale).astype(np.float32) for x in (train, test))
    return Case(name, train, labels.astype(np.int64), test, test_labels.astype(np.int64), k)


@dataclass(frozen=True)
class Optimum:
    """The minimum of mean CE + λ/2 ‖W‖² over classes that have images, for features x - `mean`."""

    weights: np.ndarray  #: (K', D) of x - mean
    intercepts: np.ndarray  #: (K',)
    step: tuple[np.ndarray, np.ndarray]  #: the next Newton step: how uncertain both are


class Reference:
    """The optima of a case for ascending C, scikit-learn's: with two classes, ‖W‖² counts half of the softmax's."""

    def __init__(self, case: Case) -> None:
        x = case.train.astype(np.float64)
        self.present, self.y = np.unique(case.labels, return_inverse=True)
        self.mean = x.mean(0)
        x -= self.mean
        self.unit = float(2.0 ** np.round(np.log2(max(np.linalg.norm(x) / len(x) ** 0.5, 1e-30))))
        self.x, self.k = x / self.unit, len(self.present)
        self.onehot = np.eye(self.k)[self.y]
        self.prior = np.log(self.onehot.mean(0) / self.onehot.mean(0).max())

    def strength(self, c: float) -> float:
        return (2 if self.k == 2 else 1) / (c * len(self.x)) / self.unit**2

    def optima(self, grid: tuple[float, ...]) -> Iterator[Optimum]:
        flat = np.zeros(self.k * (self.x.shape[1] + 1))
        wanted = [self.strength(c) for c in grid]
        strength = max(1.0, wanted[0])
        while strength > wanted[0] * 3:
            flat, _ = self._newton(flat, strength)
            strength /= 3
        for strength in wanted:
            flat, step = self._newton(flat, strength)
            (w, b), (dw, db) = self._split(flat), self._split(step)
            yield Optimum(w / self.unit, b + self.prior, (dw / self.unit, db))

    def _split(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        both = flat.reshape(self.k, -1)
        return both[:, :-1], both[:, -1]

    def _derivatives(self, flat: np.ndarray, strength: float, near: bool) -> tuple[float, np.ndarray, np.ndarray]:
        """f, its gradient and Hessian. If `near`, without the constant part of f, and differences from the class
        frequencies are computed with expm1."""
        w, b = self._split(flat)
        z = self.x @ w.T + b
        shares = self.onehot.mean(0)
        n = len(z)
        design = np.concatenate([self.x, np.ones((n, 1))], 1)
        if near:
            powers = np.expm1(z)
            m = powers @ shares
            change = shares * (powers - m[:, None]) / (1 + m[:, None])
            p = shares + change
            first = (shares - self.onehot).T @ design / n
            first[:, -1] = 0
            slope = first + change.T @ design / n
            loss = float((np.log1p(m) - z[np.arange(n), self.y]).mean())
        else:
            margins = z + self.prior
            margins = margins - margins[np.arange(n), self.y][:, None]
            margins[np.arange(n), self.y] = -np.inf
            top = np.maximum(margins.max(1), 0)
            e = np.exp(margins - top[:, None])
            total = e.sum(1)
            whole = np.exp(-top) + total
            residual = e / whole[:, None]
            p = residual.copy()
            residual[np.arange(n), self.y] = -total / whole
            p[np.arange(n), self.y] = np.exp(-top) / whole
            slope = residual.T @ design / n
            loss = float(np.where(top == 0, np.log1p(total), top + np.log(whole)).mean())
        slope[:, :-1] += strength * w
        width = design.shape[1]
        # p_i (δ_ij - p_j), with 1 - p_i as the sum of the others
        outer = -p[:, :, None] * p[:, None, :]
        places = np.arange(self.k)
        outer[:, places, places] = 0
        outer[:, places, places] = -outer.sum(2)
        hessian = np.einsum("nij,na,nb->iajb", outer, design, design, optimize=True) / n
        hessian[places, :, places, :] += np.diag(np.append(np.full(width - 1, strength), 0.0))
        return loss + 0.5 * strength * float((w * w).sum()), slope.ravel(), hessian.reshape(self.k * width, -1)

    def _newton(self, flat: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
        width = self.x.shape[1] + 1
        step = np.zeros_like(flat)
        for _ in range(30):
            w, b = self._split(flat)
            near = bool(np.abs(self.x @ w.T + b).max() < 1e-2)
            value, gradient, hessian = self._derivatives(flat, strength, near)
            # a shift of all classes changes nothing but the penalty, and the weights of all classes sum to 0
            sizes = np.append(np.full(width - 1, 1 + strength), 1.0)
            hessian = hessian + np.kron(np.ones((self.k, self.k)) / self.k, np.diag(sizes))
            root = 1 / np.sqrt(np.diag(hessian))
            try:
                step = -root * np.linalg.solve(hessian * root * root[:, None], root * gradient)
            except np.linalg.LinAlgError:  # rounded to a singular matrix
                return flat, np.full_like(flat, 1e100)
            step = (step.reshape(self.k, -1) - step.reshape(self.k, -1).mean(0)).ravel()
            rounding = 1e-15 * abs(value)
            length = 1.0
            while (
                not near
                and length > 1e-3
                and self._derivatives(flat + length * step, strength, near)[0] > value + rounding
            ):
                length /= 2
            if length <= 1e-3:
                break
            flat = flat + length * step
            if np.abs(step).max() <= 1e-13 * np.abs(flat).max():
                break
        return flat, step
