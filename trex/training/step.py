"""One training step: forward, backward, update. Queues work for the device and does not wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from trex.config.schema import TrainConfig
from trex.distributed import Ranks
from trex.images.finish import finish
from trex.images.normalize import normalize
from trex.loading.training import Batch
from trex.model.loss import Output
from trex.training.gradients import SharedGradients, same_on_every_rank
from trex.training.state import TrainingState
from trex.training.transfer import Transfer

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "off": None}


class Step:
    """The steps of one rank. With several ranks, the weights of rank 0 become those of all when this is built."""

    def __init__(self, state: TrainingState, config: TrainConfig, ranks: Ranks) -> None:
        self._state, self._device, self._parts = state, ranks.device, config.accumulate
        self.amp = PRECISIONS[config.precision]
        self._to_device = Transfer(ranks.device)
        self._shared: SharedGradients | None = None
        if ranks.world > 1:
            same_on_every_rank(state.model.state_dict().values())
            learned = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
            self._shared = SharedGradients(learned, ranks.world)

    def run(self, batch: Batch, rate: float, check: Callable[[], None]) -> Output:
        """Run one step.

        Args:
            batch: the batch of this rank, on the host.
            rate: the learning rate.
            check: called when the gradients are computed and the weights not yet changed.

        Returns:
            The loss and the metrics of this rank's batch, on the device.
        """
        for group in self._state.optimizer.param_groups:
            group["lr"] = rate
        *crops, labels = self._to_device([*batch.crops, batch.labels])
        for crop, table in zip(crops, batch.draws, strict=False):  # no tables: the loader has finished the crops
            finish(crop, table)
        output = self.gradients([normalize(crop) for crop in crops], labels)
        check()
        self.update()
        return output

    def update(self) -> None:
        """Change the weights by the gradients, unless the scaler skips this step, and clear the gradients."""
        state = self._state
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if self._shared is None:
            state.optimizer.zero_grad(set_to_none=True)
        else:
            self._shared.clear()

    def gradients(self, crops: Sequence[Tensor], labels: Tensor) -> Output:
        """Add the gradient of the mean loss over all ranks to `grad` of each parameter, and do the method's updates.

        With `train.accumulate`, the forward and backward pass of each part of the batch follow each other. The updates
        that need no gradient come once, for the whole batch, after the last forward pass.

        Args:
            crops: one (count * B, 3, S, S) normalized tensor per resolution, crop-major, the global crops first.
            labels: (B,) int64.
        """
        state, outputs, end_updates = self._state, [], None
        for number, (part, labels_of_part) in enumerate(parts_of(crops, labels, self._parts)):
            last = number + 1 == self._parts
            with torch.autocast(self._device.type, dtype=self.amp, enabled=self.amp is not None):
                output = state.model(part, labels_of_part)
                if last:
                    end_updates = state.model.update(crops, labels)
            if self._shared is not None:
                self._shared.begin(last)
            loss = output.loss if self._parts == 1 else output.loss / self._parts
            state.scaler.scale(loss).backward()
            outputs.append(Output(output.loss.detach(), output.metrics))
        if end_updates is not None:
            end_updates()
        if self._shared is not None:
            self._shared.finish()
        return _together(outputs)


def parts_of(crops: Sequence[Tensor], labels: Tensor, parts: int) -> Iterator[tuple[Sequence[Tensor], Tensor]]:
    """Divide a batch into `parts` batches of equally many images, in their order, each with all crops of its images.

    Args:
        crops: one (count * B, 3, S, S) tensor per resolution, crop-major.
        labels: (B,); B is a multiple of `parts`.
        parts: number of parts. If it is 1, the tensors themselves are returned.
    """
    if parts == 1:
        yield crops, labels
        return
    images = len(labels)
    size = images // parts
    for begin in range(0, images, size):
        part = slice(begin, begin + size)
        yield [torch.cat([one[part] for one in crop.chunk(len(crop) // images)]) for crop in crops], labels[part]


def _together(outputs: list[Output]) -> Output:
    if len(outputs) == 1:
        return outputs[0]
    metrics = {name: torch.cat([output.metrics[name] for output in outputs]) for name in outputs[0].metrics}
    return Output(torch.stack([output.loss for output in outputs]).mean(), metrics)
