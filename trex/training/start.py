"""Start training with the weights from a file (`train.start`) instead of initial weights."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trex.config.schema import Config
from trex.datasets.split import Split
from trex.errors import UserError
from trex.files import sha256
from trex.model.weights import KeyMapSetting, find_encoder, key_difference, read_file
from trex.training.network import Network, network_on_meta
from trex.training.released import CLASS_WEIGHT, PARTS, FullCheckpoint, full_checkpoint
from trex.training.state import Position, TrainingState

log = logging.getLogger(__name__)

#: What to do if a file cannot be continued.
_WEIGHTS_HINT = "To load only its weights, set train.start_with=weights"
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


@dataclass(frozen=True)
class Start:
    """The content of a start file. It has been checked and fits the run's network."""

    file: str
    sha256: str
    how: str  #: `train.start_with`
    model: dict[str, Tensor]  #: the part of the network's state dict that comes from the file
    momentum: dict[str, Tensor] = field(default_factory=dict)  #: SGD's momentum buffers by parameter name
    scaler: Mapping[str, Any] | None = None
    position: Position = field(default_factory=Position)
    choice: str = ""  #: if the file holds several complete encoders: which of them this is, in words
    key_map: Mapping[str, str] = field(default_factory=dict)  #: the file that mapped the names, and its SHA-256

    @property
    def record(self) -> dict[str, str]:
        """The entry for checkpoints and events."""
        return {"file": self.file, "sha256": self.sha256, "with": self.how, **self.key_map}

    def apply(self, state: TrainingState) -> None:
        """Copy the content of the file into `state`, before its first step."""
        state.model.load_state_dict({**state.model.state_dict(), **self.model})
        parameters = dict(state.model.named_parameters())
        for name, buffer in self.momentum.items():
            parameter = parameters[name]
            state.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter).copy_(buffer)
        if self.scaler and state.scaler.is_enabled():
            state.scaler.load_state_dict(dict(self.scaler))
        state.position = self.position


def start_of(config: Config, images: Split) -> Start:
    """Read the file `config.train.start` before a training of `images` exists. Raises the errors of `read_start`."""
    classes = images.classes
    network = network_on_meta(config, len(classes))
    return read_start(config, network, classes, len(images) // config.train.batch_size)


def read_start(config: Config, model: Network, classes: tuple[str, ...], steps_per_epoch: int) -> Start:
    """Read the parts of the file `config.train.start` that `config.train.start_with` selects.

    Args:
        config: the run's config.
        model: the run's network. Only its names and shapes are used, so it may be on the meta device.
        classes: names of the run's classes.
        steps_per_epoch: the run's steps per epoch.

    Raises:
        UserError: if the file cannot be read, or a key of the selected parts does not fit the network.
    """
    assert config.train.start is not None
    path, how = Path(config.train.start), config.train.start_with
    value = read_file(path)
    digest = sha256(path)
    if how == "all":
        full = full_checkpoint(value, path, model.method)
        return _start_with_all(path, digest, full, config, model, classes, steps_per_epoch)
    key_map = KeyMapSetting(Path(config.train.key_map) if config.train.key_map else None, "train.key_map")
    found = find_encoder(value, config.model.encoder, path, key_map)
    parts = {"encoder": found.state}
    if how == "weights":
        parts |= _reusable(value, model, path)
    originals = {name: name for name in parts} | {
        copy: original for copy, original in model.method.copies.items() if original in parts
    }
    weights = {f"{name}.{k}": v for name, original in originals.items() for k, v in parts[original].items()}
    return Start(str(path), digest, how, weights, choice=found.choice, key_map=key_map.record)


def _reusable(value: Any, model: Network, path: Path) -> dict[str, dict[str, Tensor]]:
    """Return the state dicts of the parts besides the encoder that do not depend on the classes."""
    if not model.method.reusable:
        raise UserError(
            f"train.start_with is weights: the method {model.method.name} has no part besides the encoder that does "
            f"not depend on the classes. Set train.start_with=encoder to load the encoder, or all to continue the "
            f"training"
        )
    found = full_checkpoint(value, path, model.method).model
    return {part: _part(part, found, model, path) for part in model.method.reusable}


def _part(part: str, found: Mapping[str, Tensor], model: Network, path: Path) -> dict[str, Tensor]:
    wanted = model.get_submodule(part).state_dict()
    mine = {key.removeprefix(f"{part}."): v for key, v in found.items() if key.startswith(f"{part}.")}
    if difference := key_difference(mine, wanted):
        raise UserError(
            f"{path}: its {part} does not match the config (section method):\n"
            f"{difference}\n{_other_settings(found, model)}To load only the encoder, set train.start_with=encoder"
        )
    return {key: mine[key] for key in wanted if key in mine}


def _other_settings(found: Mapping[str, Tensor], model: Network) -> str:
    """Name the settings of the method that differ between a checkpoint and the config, as far as can be seen."""
    settings = (model.method.settings_of(found) or {}).items()
    differ = [f"method.{key}={json.dumps(value)}" for key, value in settings if getattr(model.method, key) != value]
    return f"The file was made with {' '.join(differ)}. " if differ else ""


def _start_with_all(
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
        raise UserError(f"{path}: it was trained on other classes than those of {config.data.dataset}. {_WEIGHTS_HINT}")
    if problem := model.method.checkpoint_problem(full.model, len(classes)):
        raise UserError(f"{path}: {problem}, but {config.data.dataset} has {len(classes)} classes. {_WEIGHTS_HINT}")
    if full.scaler and not (isinstance(full.scaler, Mapping) and full.scaler.keys() >= _SCALER):
        raise UserError(f"{path}: its scaler is not a state of torch's GradScaler. {_WEIGHTS_HINT}")
    kept = {key: full.model[key] for key in model.state_dict() if key in full.model}
    momentum, position = dict(_momentum(full, model, path)), _position(full, config, steps, path)
    return Start(str(path), digest, "all", kept, momentum, full.scaler, position)


def _require_same_model(full: FullCheckpoint, model: Network, path: Path) -> None:
    """Raise UserError unless the checkpoint has every key of the network and no unknown key.

    Parts of the released layout that only other methods have are allowed; the log says that they are ignored.
    """
    used = model.method.released_names.values()
    unused = tuple(part for part in PARTS if not any(name.startswith(part) for name in used))
    if difference := key_difference(full.model, model.state_dict(), allowed=unused):
        raise UserError(
            f"{path} is not a training state of this config's model:\n{difference}\n"
            f"{_other_settings(full.model, model)}{_WEIGHTS_HINT}"
        )
    ignored = [part.rstrip(".") for part in unused if any(key.startswith(part) for key in full.model)]
    if ignored:
        log.info("%s: ignoring %s, which the method %s does not have", path.name, ", ".join(ignored), model.method.name)


def _momentum(full: FullCheckpoint, model: Network, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each learned parameter and SGD's momentum buffer for it."""
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = full.optimizer or {}
    try:
        numbers = [list(group["params"]) for group in optimizer["param_groups"]]
        buffers = {number: state.get("momentum_buffer") for number, state in optimizer["state"].items()}
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: its optimizer is not a state of torch's SGD. {_WEIGHTS_HINT}") from None
    names = _numbered(full.model, set(learned), [len(group) for group in numbers], path)
    found = {name: buffers.get(n) for name, n in zip(names, itertools.chain(*numbers), strict=True) if name in learned}
    if all(buffer is None for buffer in found.values()):
        return  # the checkpoint was saved before its first step
    for name, buffer in found.items():
        shape = tuple(buffer.shape) if isinstance(buffer, Tensor) else "none"
        if not isinstance(buffer, Tensor) or shape != tuple(learned[name].shape):
            raise UserError(
                f"{path}: the optimizer's momentum of {name} is {shape}, expected {tuple(learned[name].shape)}. "
                f"{_WEIGHTS_HINT}"
            )
        yield name, buffer


def _numbered(model: Mapping[str, Tensor], learned: set[str], counts: list[int], path: Path) -> list[str]:
    """Return the names of the optimizer's parameters in the order of their numbers.

    The first group has the matrices and convolutions, the second the biases and 1-D parameters. Each group is in the
    order of the model's parameters, which is also that of the file.
    """
    for wanted in (learned | {CLASS_WEIGHT}, learned):  # the file may have a learned class weight, the method none
        names = [name for name in model if name in wanted]
        groups = [name for name in names if model[name].ndim > 1], [name for name in names if model[name].ndim <= 1]
        if [len(group) for group in groups] == counts:
            return [*groups[0], *groups[1]]
    raise UserError(
        f"{path}: its optimizer has {' + '.join(map(str, counts)) or 'no'} parameters, the model has "
        f"{len(groups[0])} + {len(groups[1])}. {_WEIGHTS_HINT}"
    )


def _position(full: FullCheckpoint, config: Config, steps: int, path: Path) -> Position:
    if full.epoch is None:
        raise UserError(f"{path}: it has no epoch. {_WEIGHTS_HINT}")
    if full.epoch >= config.train.epochs:
        raise UserError(
            f"{path}: {full.epoch} epochs are finished and train.epochs is {config.train.epochs}, so no training is "
            f"left. Raise train.epochs, or start a new schedule with train.start_with=weights"
        )
    position = Position(full.epoch, full.step, full.epoch * steps + full.step)
    if full.step > steps or (full.step and full.global_step != position.global_step):
        raise UserError(
            f"{path}: it was saved in the middle of an epoch, whose number of steps differs from this run's {steps} "
            f"(other data or train.batch_size). {_WEIGHTS_HINT}"
        )
    return position
