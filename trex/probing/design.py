"""The design matrix of the exact solver: features in their eigenbasis, in memory or read from the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trex.probing.memory import piece_rows
from trex.probing.rows import Rows

#: Directions with less than this share of the largest variance are left out if there are fewer images than dimensions:
#: in float64 they cannot be told from rounding errors.
NEGLIGIBLE = 1e-13


@dataclass(frozen=True)
class Basis:
    """Mean, scale and eigenbasis of a set of features. All tensors are float64.

    The features are divided by their scale s, the root of their total variance. A problem with the features x / s and
    the penalty weight λ / s² has the same solutions as that with x and λ, but its numbers fit into float32.
    """

    mean: Tensor  #: (D,)
    vectors: Tensor  #: (D, r), orthogonal columns of length 1 / s
    values: Tensor  #: (r,) eigenvalues of the covariance of x / s, descending
    scale: float  #: s
    radius: float  #: the greatest distance of a feature from the mean, divided by s

    @classmethod
    def of(cls, rows: Rows) -> Basis:
        """The basis of N rows of D numbers: from the covariance if N >= D, else from the Gram matrix."""
        n, d = len(rows), rows.dim
        piece = piece_rows(d, 1)
        mean = sum((part.double().sum(0) for part in rows.pieces(piece)), torch.zeros(d, dtype=torch.float64)) / n
        square = 0.0
        if n >= d:
            covariance = torch.zeros(d, d, dtype=torch.float64)
            for part in rows.pieces(piece):
                centered = part.double() - mean
                square = max(square, float(centered.square().sum(1).max()))
                covariance.addmm_(centered.T, centered)
            values, vectors = torch.linalg.eigh(covariance / n)
            values, vectors = values.flip(0), vectors.flip(1)
        else:
            centered = rows.take(slice(None)).double() - mean
            square = float(centered.square().sum(1).max())
            values, left = torch.linalg.eigh(centered @ centered.T / n)
            values, left = values.flip(0), left.flip(1)
            kept = values > values[0] * NEGLIGIBLE
            kept[0] = True  # at least one, even if all rows are equal
            values = values[kept]
            vectors = torch.linalg.qr(centered.T @ left[:, kept])[0]
        variance = float(values.clamp_min(0).sum())
        scale = variance**0.5 if variance > 0 else 1.0
        values = (values / scale**2).clamp_min(float(values[0]) / scale**2 * 1e-12 + 1e-30)
        return cls(mean, (vectors / scale).contiguous(), values, scale, square**0.5 / scale)

    def rotate(self, features: Tensor, dtype: torch.dtype) -> Tensor:
        """Rotate (N, D) features: (N, r + 1) coordinates in the basis, and a last column of ones for the intercept."""
        rotated = torch.empty(len(features), self.vectors.shape[1] + 1, dtype=dtype)
        centered = features.to(dtype) - self.mean.to(dtype)
        torch.mm(centered, self.vectors.to(dtype), out=rotated[:, :-1])
        rotated[:, -1] = 1
        return rotated


@dataclass(frozen=True)
class Design:
    """The matrix R of N images in a basis, (N, r + 1); its last column is constant.

    If R is in memory, its pieces are rows of R. Otherwise they are the centered features with the constant column,
    (n, D + 1), read from the file, and the weights are rotated instead: W Rᵀ = (W Vᵀ) (X - μ)ᵀ.
    """

    basis: Basis
    rows: Rows
    rotated: Tensor | None  #: R, if it is in memory
    piece: int  #: images per piece
    dtype: torch.dtype = torch.float32  #: of the pieces

    @classmethod
    def of(
        cls, rows: Rows, basis: Basis, classes: int, in_memory: bool, dtype: torch.dtype = torch.float32
    ) -> Design:  # fmt: skip
        """The design matrix of all of `rows`, for problems with this number of classes."""
        rotated = None
        if in_memory:
            rotated = torch.empty(len(rows), basis.vectors.shape[1] + 1, dtype=dtype)
            begin = 0
            for part in rows.pieces(piece_rows(rows.dim, 1)):
                rotated[begin : begin + len(part)] = basis.rotate(part, dtype)
                begin += len(part)
        return cls(basis, rows, rotated, piece_rows(rows.dim, classes), dtype)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """The number of columns, r + 1."""
        return self.basis.vectors.shape[1] + 1

    def subset(self, places: np.ndarray) -> Design:
        """The design matrix of the images at `places`, int64 indices into this one."""
        rotated = None if self.rotated is None else self.rotated[torch.from_numpy(places)]
        return replace(self, rows=self.rows.subset(places), rotated=rotated)

    def read_as(self, dtype: torch.dtype) -> Design:
        """The same matrix with pieces of another type, read from the file."""
        return self if dtype == self.dtype else replace(self, rotated=None, dtype=dtype)

    def pieces(self) -> Iterator[Tensor]:
        """All rows in order, in pieces of n <= `piece`: (n, r + 1) if R is in memory, else (n, D + 1)."""
        mean = self.basis.mean.to(self.dtype)
        for begin in range(0, len(self), self.piece):
            if self.rotated is not None:
                yield self.rotated[begin : begin + self.piece]
                continue
            part = self.rows.take(slice(begin, begin + self.piece))
            columns = torch.ones(len(part), part.shape[1] + 1, dtype=self.dtype)
            torch.sub(part.to(self.dtype), mean, out=columns[:, :-1])
            yield columns

    def piece_weights(self, weights: Tensor) -> Tensor:
        """Convert (K, r + 1) weights W to (K, width of a piece) weights, whose product with a piece is its logits."""
        if self.rotated is not None:
            return weights
        factor = (weights[:, :-1].double() @ self.basis.vectors.T).to(weights.dtype)
        return torch.cat([factor, weights[:, -1:]], dim=1)

    def basis_gradient(self, gradient: Tensor) -> Tensor:
        """Convert the gradient with respect to `piece_weights(W)` to that with respect to W, (K, r + 1)."""
        if self.rotated is not None:
            return gradient
        factor = (gradient[:, :-1].double() @ self.basis.vectors).to(gradient.dtype)
        return torch.cat([factor, gradient[:, -1:]], dim=1)

    def logits(self, weights: Tensor) -> Iterator[Tensor]:
        """The logits of each piece, (n, K), with (K, r + 1) weights; computed in the type of the weights.

        An intercept of -inf, that of a class without training images, gives a logit of -inf.
        """
        design = self.read_as(weights.dtype)
        factor = design.piece_weights(weights)
        for part in design.pieces():
            yield torch.addmm(factor[:, -1], part[:, :-1], factor[:, :-1].T)

    def predict(self, weights: Tensor) -> np.ndarray:
        """The class with the highest logit for each image, (N,) int64, with (K, r + 1) weights."""
        found = [logits.argmax(1) for logits in self.logits(weights)]
        return torch.cat([torch.zeros(0, dtype=torch.int64), *found]).numpy()
