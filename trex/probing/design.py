"""The design matrix of the exact solver: features in their eigenbasis, in memory or read from the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trex.probing.memory import Place, piece_rows
from trex.probing.rows import Rows

#: Directions with less than this share of the largest variance are left out if there are fewer images than dimensions:
#: in float64 they cannot be told from rounding errors.
NEGLIGIBLE = 1e-13
CPU = torch.device("cpu")
#: Pieces in bfloat16 have a multiple of this number of columns: with 2049, products take up to twice as long.
COLUMNS = 32


def padded(columns: int) -> int:
    """The number of columns of a piece in bfloat16."""
    return -(-columns // COLUMNS) * COLUMNS


def _low(rows: Tensor) -> Tensor:
    """Rows in bfloat16, with columns of zeros at their end."""
    found = torch.zeros(len(rows), padded(rows.shape[1]), dtype=torch.bfloat16, device=rows.device)
    found[:, : rows.shape[1]] = rows
    return found


def add_product(total: Tensor, residual: Tensor, rows: Tensor) -> Tensor:
    """Add residual @ rows, computed in the type of `rows`, to `total`; an empty `total` is zero."""
    if not total.ndim:
        return (residual.to(rows.dtype) @ rows).to(residual.dtype)
    if residual.dtype == rows.dtype:
        return total.addmm_(residual, rows)
    return total.add_(residual.to(rows.dtype) @ rows)


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
    def of(cls, rows: Rows, device: torch.device = CPU, dtype: torch.dtype = torch.float64) -> Basis:
        """The basis of N rows of D numbers: from the covariance if N >= D, else from the Gram matrix.

        Args:
            rows: the features.
            device: where to compute it, and where it is.
            dtype: of the covariance and its eigenvectors. float32 takes less than half the time; its eigenvectors are
                orthogonal up to 1e-6, which changes the penalty by as much. The Gram matrix is always float64: in
                float32, small eigenvalues could not be told from rounding errors.
        """
        n, d = len(rows), rows.dim
        piece = piece_rows(d, 1)
        mean = torch.zeros(d, dtype=torch.float64, device=device)
        for part in rows.pieces(piece):
            mean += part.to(device).sum(0, dtype=torch.float64)
        mean /= n
        square = torch.zeros((), dtype=torch.float64, device=device)
        if n >= d:
            covariance = torch.zeros(d, d, dtype=torch.float64, device=device)
            for part in rows.pieces(piece):
                centered = part.to(device, dtype) - mean.to(dtype)
                square = torch.maximum(square, torch.linalg.vector_norm(centered, dim=1).max().double().square())
                covariance += centered.T @ centered
            unit = float(covariance.diagonal().sum()) / n or 1.0  # so that float32 neither overflows nor underflows
            values, vectors = torch.linalg.eigh((covariance / n / unit).to(dtype))
            values, vectors = values.flip(0).double() * unit, vectors.flip(1).double()
        else:
            centered = rows.take(slice(None)).to(device).double() - mean
            square = centered.square().sum(1).max()
            values, left = torch.linalg.eigh(centered @ centered.T / n)
            values, left = values.flip(0), left.flip(1)
            kept = values > values[0] * NEGLIGIBLE
            kept[0] = True  # at least one, even if all rows are equal
            values = values[kept]
            vectors = torch.linalg.qr(centered.T @ left[:, kept])[0]
        variance = float(values.clamp_min(0).sum())
        scale = variance**0.5 if variance > 0 else 1.0
        values = (values / scale**2).clamp_min(float(values[0]) / scale**2 * 1e-12 + 1e-30)
        return cls(mean, (vectors / scale).contiguous(), values, scale, float(square) ** 0.5 / scale)

    def rotate(self, features: Tensor, dtype: torch.dtype) -> Tensor:
        """Rotate (N, D) features: (N, r + 1) coordinates in the basis, and a last column of ones for the intercept."""
        rotated = torch.ones(len(features), self.vectors.shape[1] + 1, dtype=dtype, device=self.mean.device)
        centered = features.to(self.mean.device, dtype) - self.mean.to(dtype)
        torch.mm(centered, self.vectors.to(dtype), out=rotated[:, :-1])
        return rotated

    def divide(self, features: Tensor) -> Tensor:
        """Center (N, D) features and divide them by the scale: (N, D + 1) float16, the last column ones.

        float16 has 11 significant bits, and no number overflows, because the mean squared length is 1.
        """
        divided = torch.ones(len(features), features.shape[1] + 1, dtype=torch.float16, device=self.mean.device)
        mean = self.mean.float()
        divided[:, :-1] = (features.to(mean.device) - mean) / self.scale
        return divided


@dataclass(frozen=True)
class Design:
    """The matrix R of N images in a basis, (N, r + 1); its last column is constant.

    `rotated` is R in memory; `half` is what `Basis.divide` returns, in memory, with half the bytes. If both are None,
    the features are read from the file. Without `rotated`, the pieces are the centered features with the constant
    column, (n, D + 1), and the weights are rotated instead: W Rᵀ = (W Vᵀ) (X - μ)ᵀ.
    """

    basis: Basis
    rows: Rows
    rotated: Tensor | None  #: (N, r + 1)
    piece: int  #: images per piece
    dtype: torch.dtype = torch.float32  #: of the pieces
    half: Tensor | None = None  #: (M, D + 1) float16; the images are its rows `order`
    order: Tensor | None = None  #: (N,) int64; None: all

    @classmethod
    def of(
        cls, rows: Rows, basis: Basis, classes: int, in_memory: bool, dtype: torch.dtype = torch.float32
    ) -> Design:  # fmt: skip
        """The design matrix of all of `rows`, for problems with this number of classes; `in_memory`: rotated."""
        rotated = None
        if in_memory:
            shape = (len(rows), basis.vectors.shape[1] + 1)
            rotated = torch.empty(shape, dtype=dtype, device=basis.mean.device)
            begin = 0
            for part in rows.pieces(piece_rows(rows.dim, 1)):
                rotated[begin : begin + len(part)] = basis.rotate(part, dtype)
                begin += len(part)
        return cls(basis, rows, rotated, piece_rows(rows.dim, classes), dtype)

    @classmethod
    def in_half(cls, rows: Rows, basis: Basis, classes: int, dtype: torch.dtype = torch.float32) -> Design:
        """The same with `half` in memory."""
        half = torch.empty(len(rows), rows.dim + 1, dtype=torch.float16, device=basis.mean.device)
        begin = 0
        for part in rows.pieces(piece_rows(rows.dim, 1)):
            half[begin : begin + len(part)] = basis.divide(part)
            begin += len(part)
        return cls(basis, rows, None, piece_rows(rows.dim, classes), dtype, half)

    @classmethod
    def at(cls, rows: Rows, basis: Basis, classes: int, place: Place) -> Design:
        """The design matrix with the features where the memory of the probe allows."""
        if place == "half":
            return cls.in_half(rows, basis, classes)
        return cls.of(rows, basis, classes, in_memory=place == "rotated")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """The number of columns, r + 1."""
        return self.basis.vectors.shape[1] + 1

    @property
    def device(self) -> torch.device:
        """Where the pieces are."""
        return self.basis.mean.device

    @property
    def in_memory(self) -> bool:
        """Whether the pieces come from memory, in any order at the same speed."""
        return self.rotated is not None or self.half is not None

    def subset(self, places: np.ndarray) -> Design:
        """The design matrix of the images at `places`, int64 indices into this one, in that order."""
        where = torch.from_numpy(places).to(self.device)
        rotated = None if self.rotated is None else self.rotated[where]
        order = None if self.half is None else where if self.order is None else self.order[where]
        return replace(self, rows=self.rows.subset(places), rotated=rotated, order=order)

    def sample(self, places: np.ndarray) -> Design:
        """The images at `places`, int64 indices into this design, in memory."""
        if self.in_memory:
            return self.subset(places)
        rows = self.rows.subset(places)
        return replace(self.in_half(rows, self.basis, 1, self.dtype), piece=self.piece)

    def read_as(self, dtype: torch.dtype) -> Design:
        """The same matrix with pieces of another type, read from the file."""
        return self if dtype == self.dtype else replace(self, rotated=None, half=None, order=None, dtype=dtype)

    def pieces(self, dtype: torch.dtype | None = None) -> Iterator[Tensor]:
        """All rows in order, in pieces of n <= `piece`: (n, r + 1) if R is in memory, else (n, D + 1).

        In bfloat16, columns of zeros follow, up to a multiple of COLUMNS.

        Args:
            dtype: of the pieces, if it is another one than that of the matrix.
        """
        dtype = dtype or self.dtype
        mean = self.basis.mean.to(self.dtype)
        for begin in range(0, len(self), self.piece):
            where = slice(begin, begin + self.piece)
            if self.rotated is not None:
                yield (self._low if dtype == torch.bfloat16 else self.rotated)[where].to(dtype)
            elif self.half is not None:
                part = self.half[where] if self.order is None else self.half[self.order[where]]
                yield _low(part) if dtype == torch.bfloat16 else part.to(dtype)
            else:
                part = self.rows.take(where).to(self.device)
                columns = torch.ones(len(part), part.shape[1] + 1, dtype=self.dtype, device=self.device)
                torch.sub(part.to(self.dtype), mean, out=columns[:, :-1])
                yield _low(columns) if dtype == torch.bfloat16 else columns.to(dtype)

    @cached_property
    def _low(self) -> Tensor:
        """`rotated` in bfloat16."""
        assert self.rotated is not None
        return _low(self.rotated)

    def _vectors(self, dtype: torch.dtype) -> Tensor:
        """(D, r), the basis of the pieces if R is not in memory."""
        return self._vectors_float32 if dtype == torch.float32 else self._vectors_float64

    @cached_property
    def _vectors_float64(self) -> Tensor:
        return self.basis.vectors if self.half is None else self.basis.vectors * self.basis.scale

    @cached_property
    def _vectors_float32(self) -> Tensor:
        return self._vectors_float64.float()

    def factor(self, weights: Tensor, dtype: torch.dtype) -> Tensor:
        """`piece_weights` in the type and with the columns of `pieces(dtype)`."""
        found = self.piece_weights(weights).to(dtype)
        return found if dtype != torch.bfloat16 else F.pad(found, (0, padded(found.shape[1]) - found.shape[1]))

    def piece_weights(self, weights: Tensor) -> Tensor:
        """Convert (K, r + 1) weights W to (K, width of a piece) weights, whose product with a piece is its logits."""
        if self.rotated is not None:
            return weights
        factor = weights[:, :-1] @ self._vectors(weights.dtype).T
        return torch.cat([factor, weights[:, -1:]], dim=1)

    def basis_gradient(self, gradient: Tensor) -> Tensor:
        """Convert the gradient with respect to `piece_weights(W)`, or to `factor(W)`, to that with respect to W,
        (K, r + 1)."""
        gradient = gradient[:, : self.width if self.rotated is not None else self.rows.dim + 1]
        if self.rotated is not None:
            return gradient
        factor = gradient[:, :-1] @ self._vectors(gradient.dtype)
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
        found = [logits.argmax(1).cpu() for logits in self.logits(weights)]
        return torch.cat([torch.zeros(0, dtype=torch.int64), *found]).numpy()
