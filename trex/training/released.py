"""Full checkpoints in the layout of the released t-ReX program, read and written; this project's own are read too.

The layout is known from its published description (docs/zoo.md), not from a file: `model`, `optimizer` (the state of
torch's SGD over two groups of parameters, the decayed ones first), `epoch` (epochs finished), `args`, `fp16_scaler`.
Files that this project writes in that layout also hold `trex`: steps within the epoch, class names. The names of a
method's parts in the layout stand in the method's file (`released_names` in trex/methods/).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from trex.errors import UserError
from trex.methods import Method, method_named
from trex.model.weights import state_dict
from trex.training.state import FORMAT

#: How the keys of the layout's parts begin. A learned class weight may stand beside a memory.
PARTS = ("module.model.", "module.clf.", "module.memory.", "module.model_ema.")
CLASS_WEIGHT = "module.clf.fc.weight"
_POINTER = "module.memory.ptr"


@dataclass(frozen=True)
class FullCheckpoint:
    """A whole training state, with this project's names whatever layout it was read from."""

    model: dict[str, Tensor]  #: in the file's order; a key that no part of the method has keeps its name
    optimizer: Mapping[str, Any] | None  #: state dict of SGD, its parameters numbered in the order of `model`
    scaler: Mapping[str, Any] | None
    epoch: int | None  #: epochs finished
    step: int = 0  #: steps done in the next one
    global_step: int | None = None
    classes: tuple[str, ...] | None = None


def full_checkpoint(value: Any, path: Path, method: Method) -> FullCheckpoint:
    """The training state in `value`, the content of the file `path`: this project's or the released layout.

    Args:
        value: what was read.
        path: for messages.
        method: whose parts are wanted; it knows their names in the released layout.

    Raises:
        UserError: if it is neither, or of the released layout, which has no place for the method.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("model"), Mapping):
        raise UserError(
            f"{path} is not a full checkpoint (no `model` with `optimizer` and `epoch` beside it): "
            f"train.start_with=encoder takes the encoder of any file"
        )
    model = state_dict(value, path)
    if "position" not in value:
        if not method.released_names:
            raise UserError(f"{path}: {_no_place(method.name)}")
        return _from_released(value, model, path, method.released_names)
    if value.get("format") != FORMAT:
        raise UserError(f"{path}: a checkpoint of format {value.get('format')}; this version reads format {FORMAT}")
    try:
        at, parts = value["position"], (value["optimizer"], value["scaler"])
        epoch, step, global_step = (_count(at[key], key, path) for key in ("epoch", "step", "global_step"))
        return FullCheckpoint(model, *parts, epoch, step, global_step, tuple(value["classes"]))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a whole checkpoint ({error})") from error


def _no_place(method: str) -> str:
    return (
        f"the layout of the released full checkpoints has no place for the method {method}: only its encoder can be "
        f"exported for other programs, or taken from their files (train.start_with=encoder)"
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


def _count(value: Any, what: str, path: Path) -> int:
    if type(value) is not int or value < 0:
        raise UserError(f"{path}: its {what} is {value!r}: expected a whole number, 0 or more")
    return value


def to_released(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The released layout of a state that `TrainingState.to_dict` made.

    `args` is the config as plain dicts: a file with an `argparse.Namespace` would not load with `weights_only=True`.

    Raises:
        UserError: if the layout has no place for the method that made the state.
    """
    method = saved["config"]["method"]["name"]
    names = method_named(method).released_names
    if not names:
        raise UserError(_no_place(method))
    model: dict[str, Tensor] = {}
    for key, value in saved["model"].items():
        released = _renamed(key, names)
        assert released is not None, f"{method} gives {key} no name in the released layout"
        model[released] = value.contiguous()
    if (pointer := model.get(_POINTER)) is not None:
        model[_POINTER] = pointer.reshape(1)
    at = saved["position"]
    return {
        "model": model,
        "optimizer": saved["optimizer"],
        "epoch": at["epoch"],
        "args": saved["config"],
        "fp16_scaler": saved["scaler"] or None,
        "trex": {"step": at["step"], "global_step": at["global_step"], "classes": saved["classes"]},
    }


def _renamed(key: str, names: Mapping[str, str]) -> str | None:
    """`key` under its new name: that of the whole key, or of the part that it begins with, which ends in a dot."""
    for old, new in names.items():
        if key == old or (old.endswith(".") and key.startswith(old)):
            return new + key.removeprefix(old)
    return None
