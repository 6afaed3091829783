"""Plain t-ReX: the class weights are learned (arXiv 2206.15369)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from trex.methods._trex import TRAINED_NAMES, Trex
from trex.model.sizes import EncoderSize, TensorBytes, linear_bytes

if TYPE_CHECKING:
    from torch import nn

    from trex.model.encoder import Encoder


@dataclass(frozen=True)
class TrexPlain(Trex):
    """t-ReX with one learned weight per class."""

    name: Literal["trex_plain"] = "trex_plain"

    released_names: ClassVar[Mapping[str, str]] = {**TRAINED_NAMES, "classifier.weight": "module.clf.fc.weight"}

    def build(self, encoder: Encoder, classes: int) -> dict[str, nn.Module]:
        """Build the projector and the class weights."""
        from trex.model.heads import PlainHead

        projector = self.projector(encoder)
        return {"projector": projector, "classifier": PlainHead(self.output_dim, classes, self.temperature)}

    def tensor_bytes(self, encoder: EncoderSize, classes: int) -> TensorBytes:
        """Return the bytes of the projector and the class weights."""
        learned, others = self.projector_bytes(encoder)
        return TensorBytes(learned + linear_bytes(self.output_dim, classes, bias=False), others)
