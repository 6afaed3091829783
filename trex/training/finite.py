"""Ends a training whose numbers are no longer finite, and keeps such numbers out of its checkpoints.

A loss or a state that is not finite ends the training: all later steps would be lost. With precision fp16, the gradient
scaler skips steps whose gradients are not finite and lowers its scale. A few skipped steps are normal. Many in a row
mean that no scale helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from trex.distributed import Ranks
from trex.errors import TrexError
from trex.records.manifest import newest_manifest
from trex.records.run_dir import RunDir
from trex.training.checkpoint import State
from trex.training.metrics import Meter
from trex.training.state import TrainingState

#: After this many skipped steps in a row the training ends: the scale is then 4e9 times smaller.
MAX_SKIPPED_IN_A_ROW = 32

_OF_NUMPY = (torch.float16, torch.float32, torch.float64)

_ADVICE = (
    "Usual causes: the learning rate is too high (optimizer.lr), the warm-up is too short (optimizer.warmup_epochs), "
    "or fp16 overflows (train.precision=bf16)."
)


class FiniteChecks:
    """The checks of one rank. Every rank must call each of them, and all ranks raise the same error."""

    def __init__(self, run: RunDir, state: TrainingState, meter: Meter, ranks: Ranks) -> None:
        self._run, self._state, self._scaler, self._meter, self._ranks = run, state, state.scaler, meter, ranks
        self._bad_gradient = ""  #: the first gradient that is not finite, if the last step looked for one
        self._look = False

    def gradients(self, last_step: bool) -> None:
        """Call this after the gradients are computed. Looks for one that is not finite, if many steps were skipped."""
        self._bad_gradient = ""
        if self._scaler.is_enabled() and (self._look or last_step):
            named = ((name, p.grad) for name, p in self._state.model.named_parameters() if p.grad is not None)
            self._bad_gradient = first_not_finite(dict(named)) or ""

    def progress(self) -> dict[str, float]:
        """Return the values of a log line: with fp16, the scale and the number of skipped steps. Waits for the device.

        Raises:
            TrexError: if a loss since the last call was not finite, or if too many steps in a row were skipped.
        """
        self._loss()
        if not self._scaler.is_enabled():
            return {}
        total, in_a_row = self._scaler.skipped()
        if in_a_row >= MAX_SKIPPED_IN_A_ROW and self._bad_gradient:
            raise self._stuck(in_a_row)
        self._look = in_a_row >= MAX_SKIPPED_IN_A_ROW  # the next steps look for the reason
        return {"loss_scale": self._scaler.get_scale(), "skipped_steps": total}

    def before_save(self, is_end: bool, later: bool = False) -> None:
        """Check the state that is about to be saved. Waits for the device.

        Args:
            is_end: whether the training is finished.
            later: rank 0 leaves its tensors out, because `refusal` will check the copy that it writes.

        Raises:
            TrexError: if a loss since the last call or a tensor of the state is not finite; or at the end, if the
                scaler skipped the last steps, or all.
        """
        self._loss()
        is_later = later and self._ranks.is_main
        bad = None if is_later else first_not_finite(dict(_tensors(self._state)))
        if self._ranks.maximum(int(bad is not None)):
            raise TrexError(self._not_saved(bad or "a tensor of another rank", self._step))
        if is_end and self._scaler.is_enabled():
            in_a_row = self._scaler.skipped()[1]
            if in_a_row >= min(MAX_SKIPPED_IN_A_ROW, self._step):
                raise self._stuck(in_a_row)

    def refusal(self, saved: State) -> str:
        """Return why a state of this training (`TrainingState.to_dict`) must not be saved; empty if it is finite.

        It reads only `saved`, so it may be called from a thread while the training continues.
        """
        bad = first_not_finite(self._named(saved))
        return "" if bad is None else self._not_saved(bad, saved["position"]["global_step"])

    def _named(self, saved: State) -> dict[str, Tensor]:
        """Return the tensors of the model and of the optimizer in a saved state, with the names of `_tensors`."""
        names = {parameter: name for name, parameter in self._state.model.named_parameters()}
        numbered = [names[one] for group in self._state.optimizer.param_groups for one in group["params"]]
        found: dict[str, Tensor] = dict(saved["model"])
        for number, values in saved["optimizer"]["state"].items():
            found |= {f"{k} of {numbered[number]}": v for k, v in values.items() if isinstance(v, Tensor)}
        return found

    def _not_saved(self, what: str, step: int) -> str:
        return (
            f"{what} is not finite after step {step}: the training ends here, without saving this state. "
            f"{_ADVICE}{self._what_next()}"
        )

    def _loss(self) -> None:
        first = self._ranks.maximum(self._meter.first_not_finite())
        if first >= 0:
            raise TrexError(
                f"the loss of step {first + 1} is not finite: the training ends here. {_ADVICE}{self._what_next()}"
            )

    @property
    def _step(self) -> int:
        return self._state.position.global_step

    def _stuck(self, in_a_row: int) -> TrexError:
        return TrexError(
            f"the gradient scaler skipped the last {in_a_row} steps (until step {self._step}), and its scale is now "
            f"{self._scaler.get_scale():.3g}: the gradient of {self._bad_gradient} is not finite. "
            f"{_ADVICE}{self._what_next()}"
        )

    def _what_next(self) -> str:
        """Return which commands continue the run, on a new line."""
        newest = newest_manifest(self._run.checkpoints)
        if newest is None:
            return f"\nThere is no earlier checkpoint. Start again with another setting and name: {self._command()}"
        path, manifest = newest
        return (
            f"\nThe newest checkpoint, {path.name} (step {manifest.step}), is finite. `trex retry {self._run.root}` "
            f"continues from it with the same settings. To change a setting, start another run from it, or from an "
            f"earlier one in {path.parent}: {self._command()} train.start={path}/checkpoint.pt train.start_with=all"
        )

    def _command(self) -> str:
        return f"trex train {self._run.root} name={self._run.name}_2 optimizer.lr=…"


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first floating-point tensor that holds a NaN or an infinity; None if all are finite.

    Each tensor is checked on its device, and the results are read once.
    """
    checked = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()}
    if not checked:
        return None
    finite = torch.stack([_is_finite(tensor) for tensor in checked.values()]).tolist()
    return next((name for name, is_finite in zip(checked, finite, strict=True) if not is_finite), None)


def _is_finite(tensor: Tensor) -> Tensor:
    """Return whether all elements are finite, as a boolean on the tensor's device."""
    if tensor.device.type == "cpu" and tensor.dtype in _OF_NUMPY:  # it reads the tensor once, PyTorch several times
        return torch.tensor(bool(np.isfinite(tensor.detach().numpy()).all()))
    return torch.isfinite(tensor).all()


def _tensors(state: TrainingState) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of each tensor of the model and of the optimizer."""
    model: nn.Module = state.model
    yield from model.state_dict().items()
    for name, parameter in model.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                yield f"{key} of {name}", value
