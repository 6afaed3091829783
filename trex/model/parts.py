"""The modules that are trained together: the encoder and the modules that a method adds to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trex.distributed import Ranks
from trex.model.encoder import Encoder

#: The name that PyTorch 2.14 deprecates is the only one that earlier versions have.
_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


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
        return self.start_gathering(tensor)()

    def start_gathering(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Start `gather_rows`. The function that is returned waits for the rows and returns them."""
        if self.ranks.world == 1:
            return lambda: tensor
        rows = tensor.new_empty(self.ranks.world * len(tensor), *tensor.shape[1:])
        work = _GATHER(rows, tensor.contiguous(), async_op=True)
        assert work is not None

        def wait() -> Tensor:
            work.wait()
            return rows

        return wait
