"""Training that begins with the weights in a file (`train.start`) instead of initial weights."""

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
from trex.model.weights import encoder_part, key_difference, read_file
from trex.training.network import Network
from trex.training.released import CLASS_WEIGHT, PARTS, FullCheckpoint, full_checkpoint
from trex.training.state import Position, TrainingState

log = logging.getLogger(__name__)

#: What to do with a file that cannot be continued.
_ELSE = "To take only its weights: train.start_with=weights"
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


@dataclass(frozen=True)
class Start:
    """What a run begins from: read, and found to fit its network."""

    file: str
    sha256: str
    how: str
    model: dict[str, Tensor]  #: the part of the network's state dict that comes from the file
    momentum: dict[str, Tensor] = field(default_factory=dict)  #: SGD's buffer of each parameter, by its name
    scaler: Mapping[str, Any] | None = None
    position: Position = field(default_factory=Position)

    @property
    def record(self) -> dict[str, str]:
        """What checkpoints and events record about it."""
        return {"file": self.file, "sha256": self.sha256, "with": self.how}

    def apply(self, state: TrainingState) -> None:
        """Put what was read into `state`, before its first step."""
        state.model.load_state_dict({**state.model.state_dict(), **self.model})
        parameters = dict(state.model.named_parameters())
        for name, buffer in self.momentum.items():
            parameter = parameters[name]
            state.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter).copy_(buffer)
        if self.scaler and state.scaler.is_enabled():
            state.scaler.load_state_dict(dict(self.scaler))
        state.position = self.position


def read_start(config: Config, model: Network, classes: tuple[str, ...], steps_per_epoch: int) -> Start:
    """Read `config.train.start` as far as `config.train.start_with` says.

    Args:
        config: the run's.
        model: the run's network; only names and shapes of it are used, so it may be on the meta device.
        classes: names of the run's classes.
        steps_per_epoch: of the run.

    Raises:
        UserError: if the file cannot be read, or what is wanted of it does not fit the network in every key.
    """
    assert config.train.start is not None
    path, how = Path(config.train.start), config.train.start_with
    value = read_file(path)
    digest = sha256(path)
    if how == "all":
        full = full_checkpoint(value, path, model.method)
        return _everything(path, digest, full, config, model, classes, steps_per_epoch)
    parts = {"encoder": encoder_part(value, config.model.encoder, path)}
    if how == "weights":
        parts |= _reusable(value, model, path)
    originals = {name: name for name in parts} | {
        copy: original for copy, original in model.method.copies.items() if original in parts
    }
    weights = {f"{name}.{k}": v for name, original in originals.items() for k, v in parts[original].items()}
    return Start(str(path), digest, how, weights)


def _reusable(value: Any, model: Network, path: Path) -> dict[str, dict[str, Tensor]]:
    """The parts beside the encoder that do not depend on the classes, with their state dicts."""
    if not model.method.reusable:
        raise UserError(
            f"train.start_with is weights: the method {model.method.name} has nothing beside the encoder that does not "
            f"depend on the classes. train.start_with=encoder takes the encoder, all continues the training"
        )
    found = full_checkpoint(value, path, model.method).model
    return {part: _part(part, found, model, path) for part in model.method.reusable}


def _part(part: str, found: Mapping[str, Tensor], model: Network, path: Path) -> dict[str, Tensor]:
    wanted = model.get_submodule(part).state_dict()
    mine = {key.removeprefix(f"{part}."): v for key, v in found.items() if key.startswith(f"{part}.")}
    if difference := key_difference(mine, wanted):
        raise UserError(
            f"{path}: its {part} is not that of the config (section method):\n"
            f"{difference}\ntrain.start_with=encoder takes the encoder alone"
        )
    return {key: mine[key] for key in wanted if key in mine}


def _everything(
    path: Path,
    digest: str,
    full: FullCheckpoint,
    config: Config,
    model: Network,
    classes: tuple[str, ...],
    steps: int,
) -> Start:
    _require_same_model(full, model, path)
    if full.classes is not None and full.classes != classes:
        raise UserError(f"{path}: trained on other classes than {config.data.dataset}'s. {_ELSE}")
    if fault := model.method.fault(full.model, len(classes)):
        raise UserError(f"{path}: {fault}, and {config.data.dataset} has {len(classes)} classes. {_ELSE}")
    if full.scaler and not (isinstance(full.scaler, Mapping) and full.scaler.keys() >= _SCALER):
        raise UserError(f"{path}: its scaler is not a state of torch's GradScaler. {_ELSE}")
    kept = {key: full.model[key] for key in model.state_dict() if key in full.model}
    momentum, position = dict(_momentum(full, model, path)), _position(full, config, steps, path)
    return Start(str(path), digest, "all", kept, momentum, full.scaler, position)


def _require_same_model(full: FullCheckpoint, model: Network, path: Path) -> None:
    """Every key of the network, and no unknown one. A part of the released layout that only another method has is left
    out, and the log says so."""
    used = model.method.released_names.values()
    unused = tuple(part for part in PARTS if not any(name.startswith(part) for name in used))
    if difference := key_difference(full.model, model.state_dict(), others=unused):
        raise UserError(f"{path} is not a training state of this config's model:\n{difference}\n{_ELSE}")
    left_out = [part.rstrip(".") for part in unused if any(key.startswith(part) for key in full.model)]
    if left_out:
        log.info("%s: the method %s has no %s: left out", path.name, model.method.name, ", ".join(left_out))


def _momentum(full: FullCheckpoint, model: Network, path: Path) -> Iterator[tuple[str, Tensor]]:
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
    for wanted in (learned | {CLASS_WEIGHT}, learned):  # the file may hold a learned weight that the method lacks
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
