"""Two kinds of class weights: learned ones, and online class means over a memory bank of features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainHead(nn.Module):
    """Cosine logits with one learned weight per class: normalize(z) · normalize(W)ᵀ / τ."""

    def __init__(self, dim: int, classes: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight = nn.Parameter(nn.Linear(dim, classes, bias=False).weight.detach())

    def forward(self, outputs: Tensor) -> Tensor:
        """(N, dim) projector outputs to (N, classes) logits."""
        return F.linear(F.normalize(outputs, dim=1), F.normalize(self.weight, dim=1)) / self.temperature


class ClassMeans(nn.Module):
    """Cosine logits against the normalized mean of each class's features in a memory bank
    (arXiv 2206.15369, section 3.2).

    Buffers, identical on every rank: `features` (size, dim) float32, not normalized; `labels` (size,) int64; `pointer`
    () int64, the row of the next feature.
    """

    features: Tensor
    labels: Tensor
    pointer: Tensor

    def __init__(self, dim: int, classes: int, temperature: float, size: int) -> None:
        super().__init__()
        self.classes = classes
        self.temperature = temperature
        features, labels = torch.empty(size, dim), torch.empty(size, dtype=torch.int64)
        if not features.is_meta:  # to draw on the meta device, PyTorch imports its compiler (docs/adr/0039)
            features.normal_()
            labels.random_(0, classes)
        self.register_buffer("features", features)
        self.register_buffer("labels", labels)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def weights(self) -> Tensor:
        """Compute the (classes, dim) float32 class means: L2-normalized sums of each class's features.

        A class without features in the memory bank gets 0. The result is float32 also under autocast and has no
        gradient.
        """
        with torch.autocast(self.features.device.type, enabled=False), torch.no_grad():
            sums = self.features.new_zeros(self.classes, self.features.shape[1])
            return F.normalize(sums.index_add_(0, self.labels, self.features), dim=1)

    def forward(self, outputs: Tensor) -> Tensor:
        """(N, dim) projector outputs to (N, classes) logits."""
        return F.linear(F.normalize(outputs, dim=1), self.weights().to(outputs.dtype)) / self.temperature

    @torch.no_grad()
    def store(self, features: Tensor, labels: Tensor) -> None:
        """Write a batch at the pointer. Rows that do not fit before the end are dropped and the pointer returns to 0.

        The pointer is never copied to the host: index arithmetic drops the rows beyond the end.

        Args:
            features: (B, dim), outputs of the momentum projector, the same on every rank.
            labels: (B,) int64.
        """
        size = self.labels.shape[0]
        features, labels = features[:size], labels[:size]
        places = self.pointer + torch.arange(labels.shape[0], device=labels.device)
        fits = places < size
        # A row that does not fit goes to (place - size) and writes back what is there. No other row writes that place:
        # it is below the pointer, and every row that fits is at or above the pointer.
        places = torch.where(fits, places, places - size)
        self.features[places] = torch.where(fits[:, None], features.to(self.features.dtype), self.features[places])
        self.labels[places] = torch.where(fits, labels, self.labels[places])
        moved = self.pointer + labels.shape[0]
        self.pointer.copy_(torch.where(moved >= size, torch.zeros_like(moved), moved))
