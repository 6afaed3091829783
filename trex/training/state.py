"""The training state: everything the next training step depends on. It can be saved and restored."""

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
from trex.machine import machine
from trex.training.network import Network
from trex.training.scaler import CountingScaler
from trex.training.sgd import Sgd

FORMAT = 4


@dataclass
class Position:
    """The progress of a run: finished epochs, steps done in the current epoch, and steps done in total."""

    epoch: int = 0
    step: int = 0
    global_step: int = 0


@dataclass
class TrainingState:
    """The objects that change from step to step."""

    model: Network
    optimizer: SGD
    scaler: CountingScaler
    position: Position

    def to_dict(self, ranks: Ranks, config: Config, classes: tuple[str, ...], data_digest: str) -> dict[str, Any]:
        """Return the state as plain containers and tensors. Every rank must call it: the random states are gathered.

        Keys: `format`, `model` (the encoder and the parts that the method builds), `optimizer`, `scaler`, `position`,
        `random` (one state per rank), `config`, `classes`, `data_digest`, `world`, `machine` (device and versions).
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
            "machine": machine(ranks.device),
        }

    def restore(self, saved: Mapping[str, Any], ranks: Ranks) -> None:
        """Restore a saved state, bit for bit."""
        self.model.load_state_dict(saved["model"])
        fused = [group["fused"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(saved["optimizer"])
        for group, ours in zip(self.optimizer.param_groups, fused, strict=True):
            group["fused"] = ours  # released checkpoints, and those of earlier versions on CPUs, have another value
        self.scaler.load_state_dict(saved["scaler"])
        self.position = Position(**saved["position"])
        if saved["world"] == ranks.world:
            _set_random_state(saved["random"], ranks)


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> SGD:
    """SGD with momentum; weight decay on matrices and convolutions only, none on biases and 1-D parameters."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # On a GPU, the fused step checks on the device whether the scaler skips it; the other implementations wait for the
    # host at every step. If the very first step is skipped, the fused step leaves the momentum that it has just
    # allocated uninitialized, so allocate zeros here.
    optimizer = Sgd(groups, lr=config.lr, momentum=config.momentum, fused=True)
    if config.momentum:
        for parameter in learned:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def require_same_run(
    saved: Mapping[str, Any], changes: list[str], data_digest: str, ranks: Ranks, allow_world: bool
) -> None:
    """Raise ResumeRefused unless the saved state belongs to the run that is about to continue.

    Args:
        saved: a state from `TrainingState.to_dict`.
        changes: the differences between the saved config and the present one, as text.
        data_digest: digest of the present training images.
        ranks: the present ranks.
        allow_world: whether the number of processes may have changed.
    """
    if saved["format"] != FORMAT:
        raise ResumeRefused(f"the checkpoint has format {saved['format']}; this version reads format {FORMAT}")
    if changes:
        listed = "\n".join(f"  {change}" for change in changes)
        raise ResumeRefused(
            f"the checkpoint was made with another config:\n{listed}\n"
            f"Undo these changes to continue the run, or give the changed run another name (name=…)."
        )
    if saved["data_digest"] != data_digest:
        raise ResumeRefused(
            "the training images have changed since the run started (names, labels or number differ). "
            "Restore the dataset, or start a run with another name (name=…)."
        )
    if saved["world"] != ranks.world and not allow_world:
        raise ResumeRefused(
            f"the run started with {saved['world']} processes and would continue with {ranks.world}. The order of "
            f"the data stays the same, but sums are rounded differently, so the result would not be the same bit for "
            f"bit. To accept this, set train.allow_world_change=true."
        )


def machine_changes(saved: Mapping[str, Any], ranks: Ranks) -> list[str]:
    """Return each difference between the present machine and that of a saved state: `torch 2.14.1 (was 2.10.0)`.

    They may change the last bits of the result. States of earlier versions do not record their machine.
    """
    before = saved.get("machine", {})
    return [
        f"{what} {now} (was {before[what]})"
        for what, now in machine(ranks.device).items()
        if what in before and before[what] != now
    ]


def _random_states(ranks: Ranks) -> dict[str, list[torch.Tensor]]:
    states = {"cpu": ranks.gather(torch.get_rng_state())}
    if ranks.device.type == "cuda":
        states["cuda"] = ranks.gather(torch.cuda.get_rng_state(ranks.device))
    return states


def _set_random_state(saved: Mapping[str, list[torch.Tensor]], ranks: Ranks) -> None:
    torch.set_rng_state(saved["cpu"][ranks.rank])
    if ranks.device.type == "cuda" and "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"][ranks.rank], ranks.device)
