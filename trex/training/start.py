"""A training that begins from a file (`train.start`) instead of initial weights."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trex.config.schema import Config
from trex.errors import UserError
from trex.files import sha256
from trex.model.trex import TrexModel
from trex.model.weights import encoder_part, key_difference, read_file
from trex.training.released import NAMES, FullCheckpoint, full_checkpoint
from trex.training.state import Position, TrainingState

log = logging.getLogger(__name__)

#: The way out where a file cannot be continued.
_ELSE = "To take only its weights: train.start_with=weights"
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


@dataclass(frozen=True)
class Start:
    """What a run begins from: read, and found to fit its model."""

    file: str
    sha256: str
    how: str
    model: dict[str, Tensor]  #: the parts of `TrexModel`'s state dict that come from the file
    momentum: dict[str, Tensor] = field(default_factory=dict)  #: SGD's buffer of each parameter, by its name
    scaler: Mapping[str, Any] | None = None
    position: Position = field(default_factory=Position)

    @property
    def record(self) -> dict[str, str]:
        """What checkpoints and events say about it."""
        return {"file": self.file, "sha256": self.sha256, "with": self.how}

    def apply(self, state: TrainingState) -> None:
        """Make `state`, which nothing was trained with yet, begin from here."""
        state.model.load_state_dict({**state.model.state_dict(), **self.model})
        parameters = dict(state.model.named_parameters())
        for name, buffer in self.momentum.items():
            parameter = parameters[name]
            state.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter).copy_(buffer)
        if self.scaler and state.scaler.is_enabled():
            state.scaler.load_state_dict(dict(self.scaler))
        state.position = self.position


def read_start(config: Config, model: TrexModel, classes: tuple[str, ...], steps_per_epoch: int) -> Start:
    """Read `config.train.start` as far as `config.train.start_with` says.

    Args:
        config: the run's.
        model: the run's model, asked for names and shapes only: it may be on the meta device.
        classes: names of the run's classes.
        steps_per_epoch: of the run.

    Raises:
        UserError: if the file cannot be read, or what is wanted of it does not fit the model, every key of it.
    """
    assert config.train.start is not None
    path, how = Path(config.train.start), config.train.start_with
    value = read_file(path)
    digest = sha256(path)
    if how == "all":
        return _everything(path, digest, full_checkpoint(value, path), config, model, classes, steps_per_epoch)
    parts = {"encoder": encoder_part(value, config.model.encoder, path)}
    if how == "weights":
        parts["projector"] = _projector(full_checkpoint(value, path).model, model, path)
    names = [name for part in parts for name in (part, f"momentum_{part}") if getattr(model, name) is not None]
    weights = {f"{name}.{k}": v for name in names for k, v in parts[name.removeprefix("momentum_")].items()}
    return Start(str(path), digest, how, weights)


def _projector(found: Mapping[str, Tensor], model: TrexModel, path: Path) -> dict[str, Tensor]:
    wanted = model.projector.state_dict()
    mine = {key.removeprefix("projector."): v for key, v in found.items() if key.startswith("projector.")}
    if difference := key_difference(mine, wanted):
        raise UserError(
            f"{path}: its projector is not that of the config (model.hidden_layers, hidden_dim, output_dim):\n"
            f"{difference}\ntrain.start_with=encoder takes the encoder alone"
        )
    return {key: mine[key] for key in wanted if key in mine}


def _everything(
    path: Path,
    digest: str,
    full: FullCheckpoint,
    config: Config,
    model: TrexModel,
    classes: tuple[str, ...],
    steps: int,
) -> Start:
    _require_same_model(full, model, path)
    if full.classes is not None and full.classes != classes:
        raise UserError(f"{path}: trained on other classes than {config.data.dataset}'s. {_ELSE}")
    labels = full.model.get("classifier.labels")
    if labels is not None and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise UserError(
            f"{path}: its memory holds labels from {int(labels.min())} to {int(labels.max())}, and "
            f"{config.data.dataset} has {len(classes)} classes. {_ELSE}"
        )
    if full.scaler and not (isinstance(full.scaler, Mapping) and full.scaler.keys() >= _SCALER):
        raise UserError(f"{path}: its scaler is not a state of torch's GradScaler. {_ELSE}")
    kept = {key: full.model[key] for key in model.state_dict() if key in full.model}
    momentum, position = dict(_momentum(full, model, path)), _position(full, config, steps, path)
    return Start(str(path), digest, "all", kept, momentum, full.scaler, position)


def _require_same_model(full: FullCheckpoint, model: TrexModel, path: Path) -> None:
    """Every key of the model, and no unknown one. A part that only the other kind of recipe has is left out aloud."""
    wanted = model.state_dict()
    unused = tuple(part for part, _ in NAMES if not any(key.startswith(part) for key in wanted))
    if difference := key_difference(full.model, wanted, others=unused):
        raise UserError(f"{path} is not a training state of this config's model:\n{difference}\n{_ELSE}")
    left_out = [part.rstrip(".") for part in unused if any(key.startswith(part) for key in full.model)]
    if left_out:
        log.info("%s: its %s has no place in this config's model and is left out", path.name, ", ".join(left_out))


def _momentum(full: FullCheckpoint, model: TrexModel, path: Path) -> Iterator[tuple[str, Tensor]]:
    """SGD's buffer of each parameter, by the parameter's name."""
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = full.optimizer or {}
    try:
        numbers = [list(group["params"]) for group in optimizer["param_groups"]]
        buffers = {number: state.get("momentum_buffer") for number, state in optimizer["state"].items()}
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: its optimizer is not a state of torch's SGD. {_ELSE}") from None
    names = _numbered(full.model, set(learned), [len(group) for group in numbers], path)
    found = {name: buffers.get(n) for name, n in zip(names, itertools.chain(*numbers), strict=True) if name in learned}
    if all(buffer is None for buffer in found.values()):
        return  # saved before its first step
    for name, buffer in found.items():
        shape = tuple(buffer.shape) if isinstance(buffer, Tensor) else "none"
        if not isinstance(buffer, Tensor) or shape != tuple(learned[name].shape):
            raise UserError(
                f"{path}: the optimizer's momentum of {name} is {shape}, expected {tuple(learned[name].shape)}. {_ELSE}"
            )
        yield name, buffer


def _numbered(model: Mapping[str, Tensor], learned: set[str], counts: list[int], path: Path) -> list[str]:
    """Names of the optimizer's parameters, as its two groups number them: in the file's order, which is that of the
    model's parameters, first matrices and convolutions, then biases and 1-D parameters."""
    for wanted in (
        learned | {"classifier.weight"},
        learned,
    ):  # the file may hold a learned weight that we have no use for
        names = [name for name in model if name in wanted]
        groups = [name for name in names if model[name].ndim > 1], [name for name in names if model[name].ndim <= 1]
        if [len(group) for group in groups] == counts:
            return [*groups[0], *groups[1]]
    raise UserError(
        f"{path}: its optimizer has {' + '.join(map(str, counts)) or 'no'} parameters, the model "
        f"{len(groups[0])} + {len(groups[1])}. {_ELSE}"
    )


def _position(full: FullCheckpoint, config: Config, steps: int, path: Path) -> Position:
    if full.epoch is None:
        raise UserError(f"{path}: it does not say its epoch. {_ELSE}")
    if full.epoch >= config.train.epochs:
        raise UserError(
            f"{path}: {full.epoch} epochs are finished and train.epochs is {config.train.epochs}: nothing is left. "
            f"Raise train.epochs, or begin a new schedule with train.start_with=weights"
        )
    position = Position(full.epoch, full.step, full.epoch * steps + full.step)
    if full.step > steps or (full.step and full.global_step != position.global_step):
        raise UserError(
            f"{path}: it stopped within an epoch of another length than this run's {steps} steps (other data or "
            f"train.batch_size). {_ELSE}"
        )
    return position
