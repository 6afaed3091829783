"""Read and write full checkpoints in the layout of the released t-ReX program, and read this project's own ones.

Its keys (docs/zoo.md) are `model`, `optimizer` (the state of torch's SGD over two groups of parameters, first those
with weight decay), `epoch` (epochs finished), `args` (an `argparse.Namespace`) and, with mixed precision,
`fp16_scaler`. Files that this project writes in that layout also contain `trex`: the steps within the epoch and the
class names. Each method lists the names of its parts in the layout (`released_names` in trex/methods/).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from trex.errors import UserError
from trex.methods import Method, method_named
from trex.model.networks import state_dict
from trex.training.state import FORMAT

#: Prefixes of the keys of the layout's parts. A file may contain both a learned class weight and a memory bank.
PARTS = ("module.model.", "module.clf.", "module.memory.", "module.model_ema.")
CLASS_WEIGHT = "module.clf.fc.weight"
_POINTER = "module.memory.ptr"


@dataclass(frozen=True)
class FullCheckpoint:
    """A complete training state with this project's names, in whichever layout it was read."""

    model: dict[str, Tensor]  #: in the file's order; a key that belongs to no part of the method keeps its name
    optimizer: Mapping[str, Any] | None  #: state dict of SGD, its parameters numbered in the order of `model`
    scaler: Mapping[str, Any] | None
    epoch: int | None  #: epochs finished
    step: int = 0  #: steps done in the next one
    global_step: int | None = None
    classes: tuple[str, ...] | None = None


def full_checkpoint(value: Any, path: Path, method: Method) -> FullCheckpoint:
    """Return the training state in `value`, the content of the file `path`, in this project's or the released layout.

    Args:
        value: the content of the file.
        path: the file, for error messages.
        method: the method whose parts are read; it knows their names in the released layout.

    Raises:
        UserError: if `value` is in neither layout, or in the released layout, which has no place for the method.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("model"), Mapping):
        raise UserError(
            f"{path} is not a full checkpoint: expected `model` together with `optimizer` and `epoch`. "
            f"To load only the encoder, which works with any file, set train.start_with=encoder"
        )
    model = state_dict(value, path)
    if "position" not in value:
        if not method.released_names:
            raise UserError(f"{path}: {_no_place(method.name)}")
        return _from_released(value, model, path, method.released_names)
    if value.get("format") != FORMAT:
        raise UserError(f"{path}: the checkpoint has format {value.get('format')}; this version reads format {FORMAT}")
    try:
        at, parts = value["position"], (value["optimizer"], value["scaler"])
        epoch, step, global_step = (_count(at[key], key, path) for key in ("epoch", "step", "global_step"))
        return FullCheckpoint(model, *parts, epoch, step, global_step, tuple(value["classes"]))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a complete checkpoint ({error})") from error


def _no_place(method: str) -> str:
    return (
        f"the layout of the released full checkpoints has no place for the method {method}. Only its encoder can be "
        f"exported for other programs, or loaded from their files (train.start_with=encoder)"
    )


def _from_released(
    value: Mapping[str, Any], model: dict[str, Tensor], path: Path, names: Mapping[str, str]
) -> FullCheckpoint:
    wrapped = {key if key.startswith("module.") else f"module.{key}": tensor for key, tensor in model.items()}
    if (pointer := wrapped.get(_POINTER)) is not None and pointer.numel() == 1:
        wrapped[_POINTER] = pointer.reshape(())
    ours_by_released = {released: ours for ours, released in names.items()}
    renamed = {_renamed(key, ours_by_released) or key: tensor for key, tensor in wrapped.items()}
    epoch = _count(value["epoch"], "epoch", path) if "epoch" in value else None
    parts = value.get("optimizer"), value.get("fp16_scaler")
    ours = value.get("trex")
    if not isinstance(ours, Mapping):
        return FullCheckpoint(renamed, *parts, epoch)
    step, global_step = (_count(ours.get(key), key, path) for key in ("step", "global_step"))
    classes = ours.get("classes")
    return FullCheckpoint(
        renamed, *parts, epoch, step, global_step, tuple(classes) if isinstance(classes, list) else None
    )  # fmt: skip


def _count(value: Any, name: str, path: Path) -> int:
    if type(value) is not int or value < 0:
        raise UserError(f"{path}: its {name} is {value!r}: expected a whole number, 0 or more")
    return value


def to_released(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a state from `TrainingState.to_dict` to the released layout.

    `args` is an `argparse.Namespace`, as in the released files; `arguments` lists its names.

    Raises:
        UserError: if the layout has no place for the method of the state.
    """
    method = saved["config"]["method"]["name"]
    names = method_named(method).released_names
    if not names:
        raise UserError(_no_place(method))
    model: dict[str, Tensor] = {}
    for key, value in saved["model"].items():
        released = _renamed(key, names)
        assert released is not None, f"released_names of {method} has no entry for {key}"
        model[released] = value.contiguous()
    if (pointer := model.get(_POINTER)) is not None:
        model[_POINTER] = pointer.reshape(1)
    at = saved["position"]
    made = {
        "model": model,
        "optimizer": saved["optimizer"],
        "epoch": at["epoch"],
        "args": arguments(saved["config"]),
        "trex": {"step": at["step"], "global_step": at["global_step"], "classes": saved["classes"]},
    }
    scaler = {key: value for key, value in saved["scaler"].items() if key != "skipped"}  # not one of PyTorch's keys
    return made | ({"fp16_scaler": scaler} if scaler else {})


def arguments(config: Mapping[str, Any]) -> argparse.Namespace:
    """Return the settings that people look for in `args`, and the complete config, as plain values.

    Args:
        config: a config of a t-ReX method as plain dicts.
    """
    crops, method, optimizer, train = (config[section] for section in ("crops", "method", "optimizer", "train"))
    return argparse.Namespace(
        arch=config["model"]["encoder"],
        epochs=train["epochs"],
        batch_size=train["batch_size"],
        seed=train["seed"],
        lr=optimizer["lr"],
        weight_decay=optimizer["weight_decay"],
        momentum=optimizer["momentum"],
        mc_global_number=crops["global_count"],
        mc_global_scale=tuple(crops["global_scale"]),
        mc_local_number=crops["local_count"],
        mc_local_scale=tuple(crops["local_scale"]),
        memory_size=method.get("memory_bank_size", 0),
        pr_hidden_layers=method["hidden_layers"],
        pr_hidden_dim=method["hidden_dim"],
        pr_output_dim=method["output_dim"],
        pr_no_input_l2_norm=not method["normalize_input"],
        config=config,
    )


def _renamed(key: str, names: Mapping[str, str]) -> str | None:
    """Return the new name of `key`, or None. `names` maps whole keys, and prefixes of keys that end in a dot."""
    for old, new in names.items():
        if key == old or (old.endswith(".") and key.startswith(old)):
            return new + key.removeprefix(old)
    return None
