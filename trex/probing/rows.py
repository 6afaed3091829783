"""Features of some images as float32 rows, read from the mapped file in pieces, so that no dataset is too large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Rows of a feature array, all or some of them. Nothing is read before it is asked for."""

    stored: np.ndarray  #: (n, D) float32 or float16, usually a memory map
    normalize: bool = False  #: whether each row is L2-normalized
    indices: np.ndarray | None = None  #: (m,) int64, which rows; all where None

    def __len__(self) -> int:
        return len(self.stored) if self.indices is None else len(self.indices)

    @property
    def dim(self) -> int:
        """D."""
        return int(self.stored.shape[1])

    def subset(self, places: np.ndarray) -> Rows:
        """The rows at `places` (int64) among these."""
        return replace(self, indices=places if self.indices is None else self.indices[places])

    def take(self, places: np.ndarray | slice) -> Tensor:
        """(m, D) float32: the rows at `places` among these, in that order; a copy."""
        where = places if self.indices is None else self.indices[places]
        rows = torch.from_numpy(np.array(self.stored[where], dtype=np.float32))
        return F.normalize(rows, dim=1) if self.normalize else rows

    def pieces(self, size: int) -> Iterator[Tensor]:
        """All rows in their order, at most `size` at a time."""
        for begin in range(0, len(self), size):
            yield self.take(slice(begin, begin + size))
