"""Training methods, one file per method: `trex/methods/<name>.py` is what `method.name: <name>` chooses.

A new method is a file here and a recipe in `configs/`. The file defines a frozen dataclass derived from `Method`: its
fields are the settings that the config's section `method` may have, its functions are the equations. Configs are read
before a job is submitted, where importing torch would take seconds: so these files import torch inside functions only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from trex.config.loader import chosen_class
from trex.config.schema import MethodSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trex.model.encoder import Encoder
    from trex.model.loss import Output
    from trex.model.parts import Parts


class Method(MethodSettings, ABC):
    """One way to train an encoder: its settings and its equations.

    Buffers of a method's modules must be the same on every rank (`Parts.gathered`); torch's DDP does not copy them.
    """

    #: Modules that begin as copies of others and that no gradient reaches: name of the copy, name of the original.
    copies: ClassVar[Mapping[str, str]] = {}
    #: Modules beside the encoder whose weights do not depend on the classes: what `train.start_with=weights` takes too.
    reusable: ClassVar[tuple[str, ...]] = ()
    #: The name of each part in the released t-ReX layout (docs/zoo.md), by its name here; a name that ends in a dot
    #: stands for all keys that begin with it. Empty: that layout has no place for this method.
    released_names: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def build(self, encoder: Encoder, classes: int) -> dict[str, nn.Module]:
        """The modules beside the encoder, by the names that they have in checkpoints. Initial weights are drawn from
        torch's global generator; the order of the modules is that of the optimizer's parameters."""

    @abstractmethod
    def forward(self, parts: Parts, crops: Sequence[Tensor], labels: Tensor) -> Output:
        """Loss and metrics of one training step.

        Args:
            parts: the encoder and the modules of `build`, in training mode.
            crops: one (count * B, 3, S, S) normalized tensor per resolution, crop-major, the global crops first.
            labels: (B,) int64.
        """

    def after_forward(self, parts: Parts, crops: Sequence[Tensor], labels: Tensor) -> None:
        """What is updated without a gradient, such as a memory bank. Called in each step after `forward` with the same
        arguments, before the backward pass, with the weights as they were in `forward`."""

    @abstractmethod
    def classify(self, parts: Parts, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalized images to (N, classes) logits, for the validation during training."""

    def fault(self, state: Mapping[str, Tensor], classes: int) -> str | None:
        """Why the tensors of a checkpoint, whose names and shapes fit, do not suit a dataset of so many classes.
        None: they do."""


def method_named(name: str) -> type[Method]:
    """The class of the method in `trex/methods/<name>.py`."""
    found = chosen_class(__name__, name)
    assert issubclass(found, Method), f"{found.__name__} derives from Method"
    return found
