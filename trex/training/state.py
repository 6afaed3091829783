"""Everything the next training step depends on, and its way to disk and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import SGD

from trex.config.loader import to_dict
from trex.config.schema import Config, OptimizerConfig
from trex.distributed import Ranks
from trex.errors import ResumeRefused
from trex.training.network import Network

FORMAT = 3


@dataclass
class Position:
    """How far the run is: steps done in this epoch, and in all."""

    epoch: int = 0
    step: int = 0
    global_step: int = 0


@dataclass
class TrainingState:
    """The parts that change from step to step."""

    model: Network
    optimizer: SGD
    scaler: torch.amp.GradScaler
    position: Position

    def to_dict(self, ranks: Ranks, config: Config, classes: tuple[str, ...], data_digest: str) -> dict[str, Any]:
        """Plain containers and tensors, complete on rank 0. Every rank calls it: the random states are gathered.

        Keys: `format`, `model` (the encoder and the parts that the method builds), `optimizer`, `scaler`, `position`,
        `random` (one state per rank), `config`, `classes`, `data_digest`, `world`.
        """
        return {
            "format": FORMAT,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "position": asdict(self.position),
            "random": _random_states(ranks),
            "config": to_dict(config),
            "classes": list(classes),
            "data_digest": data_digest,
            "world": ranks.world,
        }

    def restore(self, saved: Mapping[str, Any], ranks: Ranks) -> None:
        """Become the saved state, bit for bit."""
        self.model.load_state_dict(saved["model"])
        fused = [group["fused"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(saved["optimizer"])
        for group, here in zip(self.optimizer.param_groups, fused, strict=True):
            group["fused"] = here  # as the device of this process wants it, not that of the one that saved
        self.scaler.load_state_dict(saved["scaler"])
        self.position = Position(**saved["position"])
        if saved["world"] == ranks.world:
            _set_random_state(saved["random"], ranks)


def make_optimizer(model: nn.Module, config: OptimizerConfig, device: torch.device) -> SGD:
    """SGD with momentum; weight decay on matrices and convolutions only, none on biases and 1-D parameters."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # The fused step reads on the device whether the scaler skips it; the others wait for the host at every step. If the
    # very first step is skipped, it leaves the momentum that it has just allocated unwritten: so allocate zeros here.
    optimizer = SGD(groups, lr=config.lr, momentum=config.momentum, fused=device.type == "cuda")
    if config.momentum:
        for parameter in learned:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def refuse_other_run(
    saved: Mapping[str, Any], changes: list[str], data_digest: str, ranks: Ranks, allow_world: bool
) -> None:
    """Raise ResumeRefused unless the saved state belongs to the run that is about to continue."""
    if saved["format"] != FORMAT:
        raise ResumeRefused(f"the checkpoint has format {saved['format']}; this version reads format {FORMAT}")
    if changes:
        listed = "\n".join(f"  {change}" for change in changes)
        raise ResumeRefused(
            f"the checkpoint was made by another config:\n{listed}\n"
            f"Set these back to continue the run, or give the changed run another name (name=…)."
        )
    if saved["data_digest"] != data_digest:
        raise ResumeRefused(
            "the training images are not those that the run began with (names, labels or number differ). "
            "Restore the dataset, or start a run of another name."
        )
    if saved["world"] != ranks.world and not allow_world:
        raise ResumeRefused(
            f"the run began with {saved['world']} processes and would continue with {ranks.world}: the order of "
            f"the data stays, but sums round differently, so the result would not be the same bit for bit. "
            f"To accept that: train.allow_world_change=true."
        )


def _random_states(ranks: Ranks) -> dict[str, list[torch.Tensor]]:
    states = {"cpu": ranks.gather(torch.get_rng_state())}
    if ranks.device.type == "cuda":
        states["cuda"] = ranks.gather(torch.cuda.get_rng_state(ranks.device))
    return states


def _set_random_state(saved: Mapping[str, list[torch.Tensor]], ranks: Ranks) -> None:
    torch.set_rng_state(saved["cpu"][ranks.rank])
    if ranks.device.type == "cuda" and "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"][ranks.rank], ranks.device)
