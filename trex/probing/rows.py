"""Features of images as float32 rows, read in pieces from a memory-mapped file, so that any dataset fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """All or some rows of a feature array. They are read only when `take` or `pieces` is called."""

    stored: np.ndarray  #: (n, D) float32 or float16, usually a memory map
    normalize: bool = False  #: whether each row is L2-normalized
    indices: np.ndarray | None = None  #: (m,) int64, the selected rows; None: all

    def __len__(self) -> int:
        return len(self.stored) if self.indices is None else len(self.indices)

    @property
    def dim(self) -> int:
        """Numbers per feature, D."""
        return int(self.stored.shape[1])

    def subset(self, places: np.ndarray) -> Rows:
        """The rows at `places`, int64 indices into these rows."""
        return replace(self, indices=places if self.indices is None else self.indices[places])

    def take(self, places: np.ndarray | slice) -> Tensor:
        """A copy of the rows at `places`, indices into these rows, in that order: (m, D) float32."""
        where = places if self.indices is None else self.indices[places]
        rows = torch.from_numpy(np.array(self.stored[where], dtype=np.float32))
        return F.normalize(rows, dim=1) if self.normalize else rows

    def pieces(self, size: int) -> Iterator[Tensor]:
        """All rows in order, at most `size` at a time."""
        for begin in range(0, len(self), size):
            yield self.take(slice(begin, begin + size))
