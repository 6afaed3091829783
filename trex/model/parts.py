"""The modules that are trained together: the encoder and the modules that a method adds to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trex.distributed import Ranks
from trex.model.encoder import Encoder


class Parts(nn.Module):
    """The encoder and a method's modules. Each is an attribute, and checkpoints use the same names."""

    encoder: Encoder

    def __init__(self, encoder: Encoder, others: Mapping[str, nn.Module], ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks
        self.encoder = encoder
        for name, module in others.items():
            self.add_module(name, module)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Type checkers see `Any`: a method knows the types of its modules, and torch says `Tensor | Module`."""

    def features(self, crops: Sequence[Tensor]) -> Tensor:
        """Compute the features of all crops, with one encoder pass per resolution.

        Args:
            crops: one (count * B, 3, S, S) tensor per resolution, crop-major: row c * B + i is crop c of image i.

        Returns:
            (n_crops * B, feature_dim), in the order of the crops.
        """
        return torch.cat([self.encoder(crop) for crop in crops])

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """Return the rows of all ranks, in rank order: (B, …) to (world * B, …). No gradient flows through it."""
        if self.ranks.world == 1:
            return tensor
        gathered = [torch.empty_like(tensor) for _ in range(self.ranks.world)]
        dist.all_gather(gathered, tensor.contiguous())
        return torch.cat(gathered)
