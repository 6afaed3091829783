"""The network of a run: the encoder and the method's modules as one torch module that computes the loss of a step."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trex.config.schema import Config
from trex.distributed import Ranks
from trex.methods import Method
from trex.model.batchnorm import synchronize
from trex.model.encoder import Encoder, build_encoder, require_trainable
from trex.model.loss import Output
from trex.model.parts import Parts


class Network(Parts):
    """The parts of a method, with the method's equations as their forward pass."""

    def __init__(self, method: Method, encoder: Encoder, others: Mapping[str, nn.Module], ranks: Ranks) -> None:
        super().__init__(encoder, others, ranks)
        self.method = method

    def forward(self, crops: Sequence[Tensor], labels: Tensor) -> Output:
        """Run the forward pass of one training step, then the method's updates that need no gradient.

        Args:
            crops: one (count * B, 3, S, S) normalized tensor per resolution, crop-major, the global crops first.
            labels: (B,) int64.
        """
        output = self.method.forward(self, crops, labels)
        with torch.no_grad():
            self.method.after_forward(self, crops, labels)
        return output

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Compute (N, classes) logits of (N, 3, H, W) normalized images."""
        return self.method.classify(self, images)


def build_network(config: Config, classes: int, ranks: Ranks, seed: int) -> Network:
    """Build the network on `ranks.device`. The initial weights depend on `seed` alone and are the same on every rank.

    Batch norms are synchronized over the ranks. The global random state does not change.

    Raises:
        UserError: if the encoder does not exist or cannot be trained.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(config, classes, ranks)
    synchronize(network, ranks)
    return network.to(ranks.device).train()


def network_on_meta(config: Config, classes: int) -> Network:
    """Build the network of one rank without storage, for its names and shapes; see `build_network`."""
    with torch.device("meta"):
        return _network(config, classes, Ranks())


def _network(config: Config, classes: int, ranks: Ranks) -> Network:
    require_trainable(config.model.encoder)
    assert isinstance(config.method, Method), "the loader reads the section `method` as a class of trex.methods"
    encoder = build_encoder(config.model.encoder)
    return Network(config.method, encoder, config.method.build(encoder, classes), ranks)


def distribute(model: Network, ranks: Ranks) -> Network | DistributedDataParallel:
    """Let the ranks share the gradients of `model`. With one rank, return it as it is."""
    if ranks.world == 1:
        return model
    # DDP need not broadcast buffers. They are the same on all ranks, because batch norm is synchronized and methods
    # update their buffers with the rows of all ranks.
    is_new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
    no_sync: dict[str, Any] = {"forward_sync_buffers": False} if is_new else {"broadcast_buffers": False}
    # With find_unused_parameters, DDP keeps its first gradient buckets. Otherwise it rearranges them after the first
    # step, and a resumed run would sum the gradients of its first step in another order (docs/adr/0004).
    device_ids = [ranks.device] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, find_unused_parameters=True, **no_sync)


def set_up_device(ranks: Ranks, config: Config) -> None:
    """Seed this rank's random numbers, and choose the kernels of its device."""
    torch.manual_seed(config.train.seed * 100_003 + ranks.rank)
    if ranks.device.type == "cuda":
        torch.backends.cudnn.benchmark = not config.train.deterministic
        torch.use_deterministic_algorithms(config.train.deterministic, warn_only=True)
        # PyTorch fills uninitialized memory in deterministic mode, which only helps debugging and slows every step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
