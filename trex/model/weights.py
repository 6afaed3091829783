"""Encoder weights from files: this project's checkpoints, the released ones, and other people's encoders."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trex import tensor_files
from trex.errors import UserError
from trex.model.encoder import build_encoder_on_meta, encoder_names

log = logging.getLogger(__name__)

#: Keys under which toolkits store a state dict in a checkpoint. If a file has several, the first of this list is used:
#: the trained network before its running average, as t-ReX is evaluated; DINO's teacher, as DINO is evaluated.
_CONTAINERS = ("model", "state_dict", "teacher", "student", "model_ema", "state_dict_ema")
#: Prefixes that toolkits put in front of an encoder's keys. Those of a momentum encoder (`module.model_ema.`,
#: `encoder_k.`) are left out on purpose.
_PREFIXES = ("module.", "model.", "backbone.", "encoder.", "base_encoder.", "encoder_q.", "_orig_mod.")
#: Keys that may appear with the same prefix as the encoder's keys: the heads of classifiers and of pretext tasks.
_HEADS = (
    "fc.", "head.", "heads.", "classifier.", "projector.", "projection_head.", "prototypes.", "predictor.",
)  # fmt: skip
_MAX_SHOWN = 8


def read_encoder(path: Path, encoder: str) -> dict[str, Tensor]:
    """Read an encoder's state dict from a file, complete and with the right shapes.

    Args:
        path: a safetensors or PyTorch file, read weights-only.
        encoder: name of the architecture that the weights must fit.

    Raises:
        UserError: if the file cannot be read, or does not hold exactly this encoder's weights. Weights are never loaded
            partially.
    """
    return encoder_state_dict(read_file(path), encoder, path)


def read_file(path: Path) -> Any:
    """Read the content of a weights file, unchanged; see `read_encoder`."""
    return tensor_files.load(path)


def encoder_state_dict(value: Any, encoder: str, path: Path) -> dict[str, Tensor]:
    """Return the encoder's state dict from `value`, the content of the file `path`; see `read_encoder`."""
    wanted = build_encoder_on_meta(encoder).state_dict()
    found = _best_part(state_dict(value, path), wanted)
    difference = key_difference(found, wanted, allowed=_HEADS)
    if difference:
        fitting = _fitting_encoder(found)
        hint = f"The file holds a {fitting}: set model.encoder={fitting}" if fitting else "Check model.encoder."
        raise UserError(f"{path} does not hold the weights of a {encoder}:\n{difference}\n{hint}")
    return {key: found[key] if key in found else torch.zeros((), dtype=torch.int64) for key in wanted}


def state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of `value`, which is a state dict or a checkpoint that contains one.

    Raises:
        UserError: if there is no state dict, or it contains no tensors.
    """
    if isinstance(value, Mapping):
        inside = [key for key in _CONTAINERS if _holds_tensors(value.get(key))]
        if len(inside) > 1:
            log.info("%s contains %s: using %s", path.name, " and ".join(sorted(inside)), inside[0])
        if inside:
            value = value[inside[0]]
    if not isinstance(value, Mapping):
        raise UserError(f"{path}: expected a state dict, found a {type(value).__name__}")
    tensors = {str(key): item for key, item in value.items() if isinstance(item, Tensor)}
    if not tensors:
        raise UserError(f"{path}: it contains no tensors")
    return tensors


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def key_difference(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], allowed: tuple[str, ...] = ()) -> str:
    """Describe how the keys and shapes of `found` differ from those of `wanted`. Empty if there is no difference.

    There is one line per key: `-` for a missing key, `+` for an unexpected one, `~` for a different shape. Batch norm's
    `num_batches_tracked` may be missing, because no output depends on it. Unexpected keys that start with one of
    `allowed` are not reported.
    """
    missing = [f"- {key}" for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    unexpected = [f"+ {key}" for key in found if key not in wanted and not key.startswith(allowed)]
    shapes = [
        f"~ {key}: {tuple(found[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    parts = [_listed("missing", missing), _listed("unexpected", unexpected), _listed("with a different shape", shapes)]
    return "\n".join(part for part in parts if part)


def _listed(title: str, lines: list[str]) -> str:
    if not lines:
        return ""
    shown = [f"    {line}" for line in lines[:_MAX_SHOWN]]
    more = [f"    … and {len(lines) - _MAX_SHOWN} more"] if len(lines) > _MAX_SHOWN else []
    return "\n".join([f"  {title}, {len(lines)}:", *shown, *more])


def _best_part(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the keys that share the prefix with the most wanted keys, without that prefix.

    Keys with other prefixes belong to other parts of the network: the projector, a momentum encoder, a memory bank. If
    several prefixes have equally many wanted keys, the shortest is used.
    """
    parts: dict[str, dict[str, Tensor]] = {"": {}}
    for key, value in state.items():
        for prefix in _prefixes(key):
            parts.setdefault(prefix, {})[key.removeprefix(prefix)] = value
    best = max(parts, key=lambda prefix: (len(parts[prefix].keys() & wanted.keys()), -len(prefix)))
    return parts[best]


def _prefixes(key: str) -> Iterator[str]:
    """Yield every prefix that may be removed from `key`: known prefixes in any order, each at most once."""
    yield ""
    taken, left = "", set(_PREFIXES)
    while prefix := next((one for one in left if key.startswith(taken + one)), ""):
        taken += prefix
        left.remove(prefix)
        yield taken


def _fitting_encoder(found: Mapping[str, Tensor]) -> str | None:
    """Return the name of torchvision's encoder that these weights fit, or None."""
    for name in encoder_names():
        if not key_difference(found, build_encoder_on_meta(name).state_dict(), allowed=_HEADS):
            return name
    return None
