"""The network of a run: the encoder and the method's modules as one torch module that computes the loss of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from trex.config.schema import Config
from trex.distributed import Ranks
from trex.methods import Method
from trex.model.batchnorm import synchronize
from trex.model.encoder import Encoder, build_encoder, require_trainable
from trex.model.loss import Output
from trex.model.parts import Parts
from trex.training.host_memory import keep_freed_memory


class Network(Parts):
    """The parts of a method, with the method's equations as their forward pass."""

    def __init__(self, method: Method, encoder: Encoder, others: Mapping[str, nn.Module], ranks: Ranks) -> None:
        super().__init__(encoder, others, ranks)
        self.method = method

    def forward(self, crops: Sequence[Tensor], labels: Tensor) -> Output:
        """Compute the loss of a batch, or of a part of it.

        Args:
            crops: one (count * B, 3, S, S) normalized tensor per resolution, crop-major, the global crops first.
            labels: (B,) int64.
        """
        return self.method.forward(self, crops, labels)

    @torch.no_grad()
    def update(self, crops: Sequence[Tensor], labels: Tensor) -> Callable[[], None] | None:
        """Begin the method's updates that need no gradient, with the whole batch; see `Method.after_forward`.

        Called once per step, after the last forward pass and before the optimizer's update. What is returned ends the
        updates; it is to be called after the backward pass.
        """
        return self.method.after_forward(self, crops, labels)

    def compile_encoders(self, backend: str = "inductor") -> None:
        """Compile the encoder and its copies at their first use; the names in the state dict stay the same."""
        copies = [name for name, original in self.method.copies.items() if original == "encoder"]
        for name in ("encoder", *copies):
            self.get_submodule(name).compile(dynamic=False, backend=backend)

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


def set_up_device(ranks: Ranks, config: Config) -> None:
    """Seed this rank's random numbers, and choose the kernels of its device."""
    train = config.train
    torch.manual_seed(train.seed * 100_003 + ranks.rank)
    if ranks.device.type == "cuda":
        measure = not train.deterministic if train.cudnn_benchmark == "auto" else train.cudnn_benchmark
        torch.backends.cudnn.benchmark = measure
        torch.backends.cudnn.allow_tf32 = train.tf32 != "off"
        torch.backends.cuda.matmul.allow_tf32 = train.tf32 == "all"
        torch.use_deterministic_algorithms(train.deterministic, warn_only=True)
        # PyTorch fills uninitialized memory in deterministic mode, which only helps debugging and slows every step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    else:
        keep_freed_memory()
