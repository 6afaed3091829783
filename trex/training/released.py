"""Full checkpoints of other layouts than this project's own: those of the released t-ReX program, read and written.

The layout is known from its published description (docs/zoo.md), not from a file: `model` with the names below,
`optimizer` (the state of torch's SGD over two groups of parameters, the decayed ones first), `epoch` (epochs finished),
`args`, `fp16_scaler`. A file of this project's in that layout also holds `trex`: what the layout has no place for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from trex.errors import UserError
from trex.model.weights import state_dict
from trex.training.state import FORMAT

#: What `TrexModel` calls a part, and what the released model calls it. Behind a name that ends in a dot both have the
#: same: the encoder is torchvision's; projector and `head.layers` are one Sequential, Linear, BatchNorm1d, GELU, …,
#: Linear, with the same indices.
NAMES = (
    ("encoder.", "module.model.encoder."),
    ("projector.", "module.model.head.layers."),
    ("classifier.weight", "module.clf.fc.weight"),
    ("classifier.features", "module.memory.features"),
    ("classifier.labels", "module.memory.labels"),
    ("classifier.pointer", "module.memory.ptr"),
    ("momentum_encoder.", "module.model_ema.encoder."),
    ("momentum_projector.", "module.model_ema.head.layers."),
)


@dataclass(frozen=True)
class FullCheckpoint:
    """A whole training state, with this project's names whatever layout it was read from."""

    model: dict[str, Tensor]  #: in the file's order; a key that no part of `TrexModel` has keeps its name
    optimizer: Mapping[str, Any] | None  #: state dict of SGD, its parameters numbered in the order of `model`
    scaler: Mapping[str, Any] | None
    epoch: int | None  #: epochs finished
    step: int = 0  #: steps done in the next one
    global_step: int | None = None
    classes: tuple[str, ...] | None = None


def full_checkpoint(value: Any, path: Path) -> FullCheckpoint:
    """The training state in `value`, the content of the file `path`: this project's or the released layout.

    Raises:
        UserError: if it is neither.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("model"), Mapping):
        raise UserError(
            f"{path} is no full checkpoint (there is no `model` with `optimizer` and `epoch` beside it): "
            f"train.start_with=encoder takes the encoder of any file"
        )
    model = state_dict(value, path)
    if "position" not in value:
        return _from_released(value, model, path)
    if value.get("format") != FORMAT:
        raise UserError(f"{path}: a checkpoint of format {value.get('format')}; this version reads format {FORMAT}")
    try:
        at, parts = value["position"], (value["optimizer"], value["scaler"])
        epoch, step, global_step = (_count(at[key], key, path) for key in ("epoch", "step", "global_step"))
        return FullCheckpoint(model, *parts, epoch, step, global_step, tuple(value["classes"]))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a whole checkpoint ({error})") from error


def _from_released(value: Mapping[str, Any], model: dict[str, Tensor], path: Path) -> FullCheckpoint:
    renamed = {_our_name(key): tensor for key, tensor in model.items()}
    if (pointer := renamed.get("classifier.pointer")) is not None and pointer.numel() == 1:
        renamed["classifier.pointer"] = pointer.reshape(())
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


def _count(value: Any, what: str, path: Path) -> int:
    if type(value) is not int or value < 0:
        raise UserError(f"{path}: its {what} is {value!r}: expected a whole number, 0 or more")
    return value


def to_released(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The released layout of a state that `TrainingState.to_dict` made.

    `args` is the config as plain dicts: a file with an `argparse.Namespace` would not load with `weights_only=True`.
    """
    model = {_released_name(key): value.contiguous() for key, value in saved["model"].items()}
    if (pointer := model.get("module.memory.ptr")) is not None:
        model["module.memory.ptr"] = pointer.reshape(1)
    at = saved["position"]
    return {
        "model": model,
        "optimizer": saved["optimizer"],
        "epoch": at["epoch"],
        "args": saved["config"],
        "fp16_scaler": saved["scaler"] or None,
        "trex": {"step": at["step"], "global_step": at["global_step"], "classes": saved["classes"]},
    }


def _our_name(key: str) -> str:
    for ours, released in NAMES:
        for name in (released, released.removeprefix("module.")):  # saved with or without torch's wrapper for DDP
            if _is_part(key, name):
                return ours + key.removeprefix(name)
    return key


def _released_name(key: str) -> str:
    return next(released + key.removeprefix(ours) for ours, released in NAMES if _is_part(key, ours))


def _is_part(key: str, name: str) -> bool:
    return key.startswith(name) if name.endswith(".") else key == name
