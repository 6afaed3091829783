"""Code shared by the two t-ReX methods: the projector, and cosine logits over all crops (arXiv 2206.15369)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trex.config.loader import setting
from trex.methods import Method
from trex.model.sizes import EncoderSize, TensorBytes, batch_norm_bytes, linear_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from trex.model.encoder import Encoder
    from trex.model.loss import Output
    from trex.model.parts import Parts
    from trex.model.projector import Projector

#: Released names of encoder and projector. In both layouts the encoder has torchvision's keys, and the projector the
#: names of `trex.model.projector`.
TRAINED_NAMES = {"encoder.": "module.model.encoder.", "projector.": "module.model.head.layers."}


@dataclass(frozen=True)
class Trex(Method):
    """Trains encoder and projector so that the outputs of all crops point toward the weight of their class."""

    hidden_layers: int = setting(1, "hidden layers of the projector", at_least=0)
    hidden_dim: int = setting(2048, "width of the projector's hidden layers", at_least=1)
    output_dim: int = setting(256, "width of the projector's output", at_least=1)
    normalize_input: bool = setting(True, "L2-normalize the input of the projector")
    temperature: float = setting(0.1, "temperature of the cosine logits", above=0)

    reusable: ClassVar[tuple[str, ...]] = ("projector",)

    def projector(self, encoder: Encoder) -> Projector:
        """Build a projector with initial weights for the features of `encoder`."""
        from trex.model.projector import Projector

        return Projector(
            encoder.feature_dim, self.hidden_layers, self.hidden_dim, self.output_dim, self.normalize_input
        )

    def projector_bytes(self, encoder: EncoderSize) -> TensorBytes:
        """Return the bytes of a projector's tensors."""
        learned, others, width = 0, 0, encoder.features
        for _ in range(self.hidden_layers):
            norm = batch_norm_bytes(self.hidden_dim)
            learned += linear_bytes(width, self.hidden_dim) + norm.learned
            others += norm.others
            width = self.hidden_dim
        return TensorBytes(learned + linear_bytes(width, self.output_dim, bias=False), others)

    def settings_of(self, state: Mapping[str, Tensor]) -> dict[str, object] | None:
        """Return the projector's settings."""
        hidden = {key: value for key, value in state.items() if re.fullmatch(r"projector\.\d+\.fc\.weight", key)}
        last = {key: value for key, value in state.items() if re.fullmatch(r"projector\.\d+\.weight", key)}
        if len(last) != 1:
            return None
        ((key, output),) = last.items()
        dims = {"hidden_dim": next(iter(hidden.values())).shape[0]} if hidden else {}
        return {
            "hidden_layers": len(hidden),
            **dims,
            "output_dim": output.shape[0],
            "normalize_input": int(key.split(".")[1]) > len(hidden),
        }

    def forward(self, parts: Parts, crops: Sequence[Tensor], labels: Tensor) -> Output:
        """Compute the mean cross-entropy over all crops. The projector runs once, the encoder once per resolution."""
        from trex.model.loss import classification

        return classification(parts.classifier(parts.projector(parts.features(crops))), labels)

    def classify(self, parts: Parts, images: Tensor) -> Tensor:
        """Compute logits with the trained encoder and projector and the current class weights."""
        logits: Tensor = parts.classifier(parts.projector(parts.encoder(images)))
        return logits
