"""t-ReX with online class means: each class weight is the mean of recent features of its class (arXiv 2206.15369)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from trex.config.loader import setting
from trex.methods._trex import TRAINED_NAMES, Trex
from trex.model.sizes import EncoderSize, TensorBytes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trex.model.encoder import Encoder
    from trex.model.heads import ClassMeans
    from trex.model.parts import Parts


@dataclass(frozen=True)
class TrexClassMeans(Trex):
    """t-ReX with class means over a memory bank of features that momentum networks compute."""

    name: Literal["trex_class_means"] = "trex_class_means"
    memory_bank_size: int = setting(8192, "features in the memory bank of the class means", at_least=1)
    momentum: float = setting(0.999, "momentum of the networks that feed the memory bank", at_least=0, at_most=1)

    copies: ClassVar[Mapping[str, str]] = {"momentum_encoder": "encoder", "momentum_projector": "projector"}
    released_names: ClassVar[Mapping[str, str]] = {
        **TRAINED_NAMES,
        "classifier.features": "module.memory.features",
        "classifier.labels": "module.memory.labels",
        "classifier.pointer": "module.memory.ptr",
        "momentum_encoder.": "module.model_ema.encoder.",
        "momentum_projector.": "module.model_ema.head.layers.",
    }

    def build(self, encoder: Encoder, classes: int) -> dict[str, nn.Module]:
        """Build the projector, the class means, and the momentum networks as copies of encoder and projector."""
        from trex.model.heads import ClassMeans

        projector = self.projector(encoder)
        return {
            "projector": projector,
            "classifier": ClassMeans(self.output_dim, classes, self.temperature, self.memory_bank_size),
            "momentum_encoder": copy.deepcopy(encoder).requires_grad_(requires_grad=False),
            "momentum_projector": copy.deepcopy(projector).requires_grad_(requires_grad=False),
        }

    def tensor_bytes(self, encoder: EncoderSize, classes: int) -> TensorBytes:  # noqa: ARG002
        """Return the bytes of the projector, the momentum networks, and the memory bank with its pointer."""
        learned, others = self.projector_bytes(encoder)
        copied = encoder.parameters * 4 + encoder.buffers + learned + others
        return TensorBytes(learned, others + copied + self.memory_bank_size * (4 * self.output_dim + 8) + 8)

    def after_forward(self, parts: Parts, crops: Sequence[Tensor], labels: Tensor) -> Callable[[], None]:
        """Update the momentum networks, and let their outputs for the first global crop be stored in the memory bank.

        The update is p_ema ← m · p_ema + (1 - m) · p, for parameters only; batch norms of the momentum networks keep
        their own statistics. This step's logits were computed before the memory bank changes, and the optimizer has
        not changed p since the forward pass. The rows of all ranks are gathered during the backward pass.
        """
        import torch

        slow: list[Tensor] = [*parts.momentum_encoder.parameters(), *parts.momentum_projector.parameters()]
        fast: list[Tensor] = [*parts.encoder.parameters(), *parts.projector.parameters()]
        torch._foreach_lerp_(slow, fast, 1.0 - self.momentum)
        bank: ClassMeans = parts.classifier
        outputs: Tensor = parts.momentum_projector(parts.momentum_encoder(crops[0][: labels.shape[0]]))
        features = parts.start_gathering(outputs.to(bank.features.dtype))
        of_classes = parts.start_gathering(labels)
        return lambda: bank.store(features(), of_classes())

    def checkpoint_problem(self, state: Mapping[str, Tensor], classes: int) -> str | None:
        """Report labels in the memory bank that the dataset does not have."""
        labels = state["classifier.labels"]
        if labels.min() >= 0 and labels.max() < classes:
            return None
        return f"its memory bank holds labels from {int(labels.min())} to {int(labels.max())}"
