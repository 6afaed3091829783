"""The network that is trained: encoder, projector, class weights, and for class means the momentum networks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from trex.config.schema import ModelConfig
from trex.distributed import Ranks
from trex.model.batchnorm import synchronize
from trex.model.encoder import build_encoder, require_trainable
from trex.model.heads import ClassMeans, PlainHead
from trex.model.projector import Projector


class Output(NamedTuple):
    """Of one training step: `loss` () mean cross-entropy over all crops, `logits` (n_crops * B, K) in crop order."""

    loss: Tensor
    logits: Tensor


class TrexModel(nn.Module):
    """t-ReX with online class means, or plain t-ReX when `config.memory_size` is 0 (arXiv 2206.15369)."""

    def __init__(self, config: ModelConfig, classes: int, ranks: Ranks) -> None:
        super().__init__()
        require_trainable(config.encoder)
        self.ranks = ranks
        self.momentum = config.momentum
        self.encoder = build_encoder(config.encoder)
        self.projector = Projector(
            self.encoder.feature_dim, config.hidden_layers, config.hidden_dim, config.output_dim, config.normalize_input
        )
        self.classifier: PlainHead | ClassMeans
        if config.memory_size == 0:
            self.classifier = PlainHead(config.output_dim, classes, config.temperature)
            self.momentum_encoder = self.momentum_projector = None
        else:
            self.classifier = ClassMeans(config.output_dim, classes, config.temperature, config.memory_size)
            self.momentum_encoder = copy.deepcopy(self.encoder).requires_grad_(requires_grad=False)
            self.momentum_projector = copy.deepcopy(self.projector).requires_grad_(requires_grad=False)

    def forward(self, crops: Sequence[Tensor], labels: Tensor) -> Output:
        """The forward pass of one training step, and the memory's update where there is one.

        Args:
            crops: one (count * B, 3, S, S) tensor a resolution, crop-major, the global crops first.
            labels: (B,) int64.
        """
        features = torch.cat([self.encoder(crop) for crop in crops])
        logits = self.classifier(self.projector(features))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, labels.repeat(logits.shape[0] // labels.shape[0]))
        if isinstance(self.classifier, ClassMeans):
            self._remember(crops[0][: labels.shape[0]], labels, self.classifier)
        return Output(loss, logits)

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images to (N, K) logits, by the trained encoder and the class weights as they are."""
        logits: Tensor = self.classifier(self.projector(self.encoder(images)))
        return logits

    @torch.no_grad()
    def _remember(self, first_crop: Tensor, labels: Tensor, memory: ClassMeans) -> None:
        """Move the momentum networks a little, encode the first global crop with them, put that into the memory.

        The logits of this step are made already, from the old memory; the optimizer has not moved the weights yet.
        """
        assert self.momentum_encoder is not None
        assert self.momentum_projector is not None
        slow: list[Tensor] = [*self.momentum_encoder.parameters(), *self.momentum_projector.parameters()]
        fast: list[Tensor] = [*self.encoder.parameters(), *self.projector.parameters()]
        torch._foreach_lerp_(slow, fast, 1.0 - self.momentum)
        outputs = self.momentum_projector(self.momentum_encoder(first_crop))
        memory.remember(self._gathered(outputs.to(memory.features.dtype)), self._gathered(labels))

    def _gathered(self, tensor: Tensor) -> Tensor:
        """The rows of all ranks, in rank order."""
        if self.ranks.world == 1:
            return tensor
        boxes = [torch.empty_like(tensor) for _ in range(self.ranks.world)]
        dist.all_gather(boxes, tensor.contiguous())
        return torch.cat(boxes)


def build_model(config: ModelConfig, classes: int, ranks: Ranks, seed: int) -> TrexModel:
    """The model with initial weights that depend on `seed` alone, the same on every rank, on `ranks.device`.

    Batch norms are synchronized over the ranks. The global random state is left as it was.

    Raises:
        UserError: if there is no encoder of that name, or it can only be evaluated.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TrexModel(config, classes, ranks)
    synchronize(model, ranks)
    return model.to(ranks.device).train()
