"""The matrix that the exact solver multiplies with: features in their eigenbasis, in memory or not."""

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
    """Mean and eigenbasis of features."""

    mean: Tensor  #: (D,)
    vectors: Tensor  #: (D, r), orthonormal columns
    values: Tensor  #: (r,) eigenvalues of the covariance, descending

    @classmethod
    def of(cls, rows: Rows) -> Basis:
        """The basis of N rows of D numbers, from the smaller of covariance and Gram matrix, in float64."""
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
            kept[-1] = True  # also where all rows are the same
            values = values[kept].clamp_min(1e-30)
            vectors = centered.T @ left[:, kept] / (values * n).sqrt()
        values = values.flip(0).clamp_min(float(values[-1]) * 1e-12 + 1e-30)
        return cls(mean.float(), vectors.flip(1).float().contiguous(), values.float())

    def rotate(self, features: Tensor) -> Tensor:
        """(N, D) features to (N, r + 1): coordinates in the basis, and a constant 1 for the intercept."""
        rotated = torch.empty(len(features), self.vectors.shape[1] + 1)
        torch.mm(features - self.mean, self.vectors, out=rotated[:, :-1])
        rotated[:, -1] = 1
        return rotated


@dataclass(frozen=True)
class Design:
    """N images in a basis: R, (N, r + 1), the last column constant.

    In memory it is R itself. Else its pieces are the centered features with that column, (n, D + 1), as they come from
    the file, and the small factor is rotated instead: W Rᵀ = (W Vᵀ) (X - μ)ᵀ.
    """

    basis: Basis
    rows: Rows
    rotated: Tensor | None
    piece: int  #: images at a time

    @classmethod
    def of(cls, rows: Rows, basis: Basis, classes: int, in_memory: bool) -> Design:
        """The design of all of `rows`, for problems of so many classes."""
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
        """r + 1."""
        return self.basis.vectors.shape[1] + 1

    def subset(self, places: np.ndarray) -> Design:
        """The images at `places` (int64) among these."""
        rotated = None if self.rotated is None else self.rotated[torch.from_numpy(places)]
        return replace(self, rows=self.rows.subset(places), rotated=rotated)

    def pieces(self) -> Iterator[Tensor]:
        """What `outward` weights are multiplied with: (n, r + 1) in memory, else (n, D + 1), n <= piece."""
        for begin in range(0, len(self), self.piece):
            if self.rotated is not None:
                yield self.rotated[begin : begin + self.piece]
                continue
            part = self.rows.take(slice(begin, begin + self.piece))
            columns = torch.ones(len(part), part.shape[1] + 1)
            torch.sub(part, self.basis.mean, out=columns[:, :-1])
            yield columns

    def outward(self, weights: Tensor) -> Tensor:
        """(K, r + 1) weights of the basis to (K, width of a piece) weights, whose products with pieces are logits."""
        if self.rotated is not None:
            return weights
        return torch.cat([weights[:, :-1] @ self.basis.vectors.T, weights[:, -1:]], dim=1)

    def inward(self, slope: Tensor) -> Tensor:
        """The transpose of `outward`: (K, width of a piece) sums over images to (K, r + 1)."""
        if self.rotated is not None:
            return slope
        return torch.cat([slope[:, :-1] @ self.basis.vectors, slope[:, -1:]], dim=1)

    def predict(self, weights: Tensor) -> np.ndarray:
        """(N,) int64 classes of the highest logit, for (K, r + 1) weights."""
        turned = self.outward(weights)
        return torch.cat([(part @ turned.T).argmax(1) for part in self.pieces()]).numpy()
