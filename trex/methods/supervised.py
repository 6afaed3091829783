"""Plain supervised training: a linear softmax classifier on the encoder's features, without a projector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trex.methods import Method
from trex.model.sizes import EncoderSize, TensorBytes, linear_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trex.model.encoder import Encoder
    from trex.model.loss import Output
    from trex.model.parts import Parts


@dataclass(frozen=True)
class Supervised(Method):
    """Softmax cross-entropy of a linear classifier with bias on the encoder's features, over all crops."""

    name: Literal["supervised"] = "supervised"

    def build(self, encoder: Encoder, classes: int) -> dict[str, nn.Module]:
        """Build the classifier, with torch's initial weights."""
        from torch import nn

        return {"classifier": nn.Linear(encoder.feature_dim, classes)}

    def tensor_bytes(self, encoder: EncoderSize, classes: int) -> TensorBytes:
        """Return the bytes of the classifier."""
        return TensorBytes(linear_bytes(encoder.features, classes), 0)

    def forward(self, parts: Parts, crops: Sequence[Tensor], labels: Tensor) -> Output:
        """Compute the mean cross-entropy over all crops."""
        from trex.model.loss import classification

        return classification(parts.classifier(parts.features(crops)), labels)

    def classify(self, parts: Parts, images: Tensor) -> Tensor:
        """Compute the classifier's logits."""
        logits: Tensor = parts.classifier(parts.encoder(images))
        return logits
