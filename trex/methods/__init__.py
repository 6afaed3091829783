"""Training methods, one file per method: `method.name: <name>` in a config selects `trex/methods/<name>.py`.

To add a method, add a file here and a recipe in `configs/`. The file defines a frozen dataclass derived from `Method`:
its fields are the settings of the config's section `method`, and its functions are the equations. Configs are read
before a job is submitted, when importing torch would take seconds, so these files import torch only inside functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from trex.config.loader import chosen_class
from trex.config.schema import MethodSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trex.model.encoder import Encoder
    from trex.model.loss import Output
    from trex.model.parts import Parts
    from trex.model.sizes import EncoderSize, TensorBytes


class Method(MethodSettings, ABC):
    """One way to train an encoder: its settings and its equations.

    Buffers of a method's modules must be the same on every rank, because nothing synchronizes them.
    `Parts.gather_rows` and `Parts.start_gathering` collect the rows of all ranks for such updates.
    """

    #: Modules that start as copies of other modules and receive no gradient: {name of the copy: name of the original}.
    copies: ClassVar[Mapping[str, str]] = {}
    #: Modules besides the encoder whose weights do not depend on the classes. `train.start_with=weights` loads them.
    reusable: ClassVar[tuple[str, ...]] = ()
    #: {name of a part in this project: its name in the released t-ReX layout (docs/zoo.md)}. A name that ends in a dot
    #: stands for all keys that start with it. Empty if that layout has no place for this method.
    released_names: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def build(self, encoder: Encoder, classes: int) -> dict[str, nn.Module]:
        """Build the modules besides the encoder, by their names in checkpoints.

        Initial weights are drawn from torch's global generator. The optimizer's parameters follow the order of the
        modules.
        """

    def tensor_bytes(self, encoder: EncoderSize, classes: int) -> TensorBytes | None:  # noqa: ARG002
        """Return the bytes of the modules that `build` returns for such an encoder, without building them.

        So that `trex check` needs no torch. None: not known, the modules are built without storage.
        """
        return None

    @abstractmethod
    def forward(self, parts: Parts, crops: Sequence[Tensor], labels: Tensor) -> Output:
        """Compute the loss and the metrics of one training step.

        Args:
            parts: the encoder and the modules from `build`, in training mode.
            crops: one (count * B, 3, S, S) normalized tensor per resolution, crop-major, the global crops first.
            labels: (B,) int64.
        """

    def after_forward(self, parts: Parts, crops: Sequence[Tensor], labels: Tensor) -> Callable[[], None] | None:
        """Update state that needs no gradient, such as a memory bank.

        Called once in each step, with the batch as in `forward`, or with the whole batch if `forward` gets it in parts
        (`train.accumulate`). The forward passes are over and the weights have not changed since. The last backward pass
        follows.

        Returns:
            What is to be done when the backward pass has been queued, such as waiting for other ranks; or None.
        """

    @abstractmethod
    def classify(self, parts: Parts, images: Tensor) -> Tensor:
        """Compute (N, classes) logits of (N, 3, H, W) normalized images, for the validation during training."""

    def settings_of(self, state: Mapping[str, Tensor]) -> dict[str, object] | None:
        """Return settings of this method that a checkpoint was trained with, if names and shapes show them.

        Args:
            state: the tensors of the checkpoint, under this project's names.
        """

    def checkpoint_problem(self, state: Mapping[str, Tensor], classes: int) -> str | None:
        """Say why a checkpoint does not fit a dataset with `classes` classes, or return None if it fits.

        Args:
            state: the tensors of the checkpoint; their names and shapes have been checked already.
            classes: number of classes.
        """


def method_named(name: str) -> type[Method]:
    """Return the class of the method in `trex/methods/<name>.py`."""
    found = chosen_class(__name__, name)
    assert issubclass(found, Method), f"{found.__name__} must derive from Method"
    return found
