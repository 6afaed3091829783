"""The projector between the encoder and the class weights; it is discarded after training."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Sequential):
    """[L2-normalize] → hidden_layers x (Linear → BatchNorm1d → GELU) → Linear without bias.

    The names of its tensors are those of the released checkpoints: `1.fc.weight`, `1.bn.running_mean`, …, `2.weight`.
    The normalization has no tensors, but it has an index; without it, all indices are one less.
    """

    def __init__(
        self, in_dim: int, hidden_layers: int, hidden_dim: int, output_dim: int, normalize_input: bool
    ) -> None:
        layers: list[nn.Module] = [Normalize()] if normalize_input else []
        width = in_dim
        for _ in range(hidden_layers):
            layers.append(HiddenLayer(width, hidden_dim))
            width = hidden_dim
        layers.append(nn.Linear(width, output_dim, bias=False))
        super().__init__(*layers)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Compute (N, output_dim) outputs, not normalized, of (N, in_dim) features."""
        x = features
        for layer in self:
            x = layer(x)
        return x


class Normalize(nn.Module):
    """L2 normalization of each row."""

    def forward(self, features: Tensor) -> Tensor:
        """(N, dim) to (N, dim), each row divided by its length."""
        return F.normalize(features, dim=1)


class HiddenLayer(nn.Module):
    """Linear → BatchNorm1d → GELU."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_dim, dim)
        self.bn = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_dim) to (N, dim)."""
        return F.gelu(self.bn(self.fc(x)))
