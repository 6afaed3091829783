"""The gradient scaler of precision fp16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trex.training.checkpoint import State


class CountingScaler(torch.amp.GradScaler):
    """PyTorch's gradient scaler, which also counts the steps that it skips. The counts stay on the device."""

    def __init__(self, device: str, enabled: bool) -> None:
        super().__init__(device, enabled=enabled)
        self._one = torch.ones((), device=device)
        self._skipped = torch.zeros(2, dtype=torch.int64, device=device)  # in total, and in a row until now

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Update the scale after a step; a skipped step makes it smaller. Does not wait for the device."""
        if not self.is_enabled():
            return
        before = self.scale(self._one)
        super().update(new_scale)
        after = self.scale(self._one)
        skipped = ((after < before) | (after == 0)).long()  # a scale of 0 cannot become smaller
        total, in_a_row = self._skipped
        self._skipped = torch.stack([total + skipped, (in_a_row + 1) * skipped])

    def skipped(self) -> tuple[int, int]:
        """Return how many steps were skipped since the training started, and how many in a row until now. Waits."""
        total, in_a_row = self._skipped.tolist()
        return total, in_a_row

    def state_dict(self) -> State:
        """Return PyTorch's state of the scaler, and the counts as `skipped`; empty without fp16."""
        state: State = super().state_dict()
        return {**state, "skipped": list(self.skipped())} if state else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, also one of PyTorch's own scaler, which has no counts."""
        super().load_state_dict({key: value for key, value in state.items() if key != "skipped"})
        self._skipped.copy_(torch.tensor(state.get("skipped", [0, 0])))
