"""The projector between the encoder and the class weights; it is discarded after training."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Sequential):
    """[L2-normalize] → hidden_layers x (Linear → BatchNorm1d → GELU) → Linear without bias."""

    def __init__(
        self, in_dim: int, hidden_layers: int, hidden_dim: int, output_dim: int, normalize_input: bool
    ) -> None:
        layers: list[nn.Module] = []
        width = in_dim
        for _ in range(hidden_layers):
            layers += [nn.Linear(width, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.GELU()]
            width = hidden_dim
        layers.append(nn.Linear(width, output_dim, bias=False))
        super().__init__(*layers)
        self.normalize_input = normalize_input
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Compute (N, output_dim) outputs, not normalized, of (N, in_dim) features."""
        x = F.normalize(features, dim=1) if self.normalize_input else features
        for layer in self:
            x = layer(x)
        return x
