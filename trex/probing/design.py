"""The design matrix of the exact solver: features in their eigenbasis, in memory or read from the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trex.probing.memory import piece_rows
from trex.probing.rows import Rows


@dataclass(frozen=True)
class Basis:
    """Mean and eigenbasis of a set of features."""

    mean: Tensor  #: (D,)
    vectors: Tensor  #: (D, r), orthonormal columns
    values: Tensor  #: (r,) eigenvalues of the covariance, descending

    @classmethod
    def of(cls, rows: Rows) -> Basis:
        """The basis of N rows of D numbers, in float64: from the covariance if N >= D, else from the Gram matrix."""
        n, d = len(rows), rows.dim
        piece = piece_rows(d, 1)
        mean = sum((part.double().sum(0) for part in rows.pieces(piece)), torch.zeros(d, dtype=torch.float64)) / n
        if n >= d:
            covariance = torch.zeros(d, d, dtype=torch.float64)
            for part in rows.pieces(piece):
                centered = part.double() - mean
                covariance.addmm_(centered.T, centered)
            values, vectors = torch.linalg.eigh(covariance / n)
        else:
            centered = rows.take(slice(None)).double() - mean
            values, left = torch.linalg.eigh(centered @ centered.T / n)
            kept = values > values[-1] * 1e-9
            kept[-1] = True  # at least one, even if all rows are equal
            values = values[kept].clamp_min(1e-30)
            vectors = centered.T @ left[:, kept] / (values * n).sqrt()
        values = values.flip(0).clamp_min(float(values[-1]) * 1e-12 + 1e-30)
        return cls(mean.float(), vectors.flip(1).float().contiguous(), values.float())

    def rotate(self, features: Tensor) -> Tensor:
        """Rotate (N, D) features: (N, r + 1) coordinates in the basis, and a last column of ones for the intercept."""
        rotated = torch.empty(len(features), self.vectors.shape[1] + 1)
        torch.mm(features - self.mean, self.vectors, out=rotated[:, :-1])
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

    @classmethod
    def of(cls, rows: Rows, basis: Basis, classes: int, in_memory: bool) -> Design:
        """The design matrix of all of `rows`, for problems with this number of classes."""
        rotated = None
        if in_memory:
            rotated = torch.empty(len(rows), basis.vectors.shape[1] + 1)
            begin = 0
            for part in rows.pieces(piece_rows(rows.dim, 1)):
                rotated[begin : begin + len(part)] = basis.rotate(part)
                begin += len(part)
        return cls(basis, rows, rotated, piece_rows(rows.dim, classes))

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

    def pieces(self) -> Iterator[Tensor]:
        """All rows in order, in pieces of n <= `piece`: (n, r + 1) if R is in memory, else (n, D + 1)."""
        for begin in range(0, len(self), self.piece):
            if self.rotated is not None:
                yield self.rotated[begin : begin + self.piece]
                continue
            part = self.rows.take(slice(begin, begin + self.piece))
            columns = torch.ones(len(part), part.shape[1] + 1)
            torch.sub(part, self.basis.mean, out=columns[:, :-1])
            yield columns

    def piece_weights(self, weights: Tensor) -> Tensor:
        """Convert (K, r + 1) weights W to (K, width of a piece) weights, whose product with a piece is its logits."""
        if self.rotated is not None:
            return weights
        return torch.cat([weights[:, :-1] @ self.basis.vectors.T, weights[:, -1:]], dim=1)

    def basis_gradient(self, gradient: Tensor) -> Tensor:
        """Convert the gradient with respect to `piece_weights(W)` to that with respect to W, (K, r + 1)."""
        if self.rotated is not None:
            return gradient
        return torch.cat([gradient[:, :-1] @ self.basis.vectors, gradient[:, -1:]], dim=1)

    def logits(self, weights: Tensor) -> Iterator[Tensor]:
        """The logits of all images in order, in pieces of n <= `piece`: (n, K), with (K, r + 1) weights."""
        factor = self.piece_weights(weights)
        for part in self.pieces():
            yield part @ factor.T

    def predict(self, weights: Tensor) -> np.ndarray:
        """The class with the highest logit for each image, (N,) int64, with (K, r + 1) weights."""
        return torch.cat([piece.argmax(1) for piece in self.logits(weights)]).numpy()
