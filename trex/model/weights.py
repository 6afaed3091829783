"""Encoder weights from files: this project's checkpoints, the released ones, and other people's encoders."""

from __future__ import annotations

import argparse
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

#: Keys under which toolkits put a state dict inside a checkpoint; if a file has several, the first of these is taken:
#: the trained network before its running average, as t-ReX is evaluated; DINO's teacher, as DINO is evaluated.
_CONTAINERS = ("model", "state_dict", "teacher", "student", "model_ema", "state_dict_ema")
#: What toolkits put before an encoder's keys. A momentum encoder's (`module.model_ema.`, `encoder_k.`) is not here.
_PREFIXES = ("module.", "model.", "backbone.", "encoder.", "base_encoder.", "encoder_q.", "_orig_mod.")
#: What may be beside the encoder's keys with the same prefix: the heads of classifiers and of pretext tasks.
_OTHER_PARTS = (
    "fc.", "head.", "heads.", "classifier.", "projector.", "projection_head.", "prototypes.", "predictor.",
)  # fmt: skip
_SHOWN = 8


def read_encoder(path: Path, encoder: str) -> dict[str, Tensor]:
    """The encoder's state dict from a file, complete and of the right shapes.

    Args:
        path: a safetensors or PyTorch file, read weights-only; `argparse.Namespace`, which is inert, may be in it:
            released checkpoints hold one.
        encoder: name of the architecture that the weights must fit.

    Raises:
        UserError: if the file cannot be read, or does not hold exactly this encoder's weights: nothing loads partially.
    """
    return encoder_part(read_file(path), encoder, path)


def read_file(path: Path) -> Any:
    """The content of a weights file, unchanged; see `read_encoder`."""
    return tensor_files.load(path, allowed=(argparse.Namespace,))


def encoder_part(value: Any, encoder: str, path: Path) -> dict[str, Tensor]:
    """The encoder's state dict out of `value`, the content of the file `path`; see `read_encoder`."""
    wanted = build_encoder_on_meta(encoder).state_dict()
    found = _best_part(state_dict(value, path), wanted)
    difference = key_difference(found, wanted, others=_OTHER_PARTS)
    if difference:
        fits = _who_fits(found)
        hint = f"They are those of a {fits}: model.encoder={fits}" if fits else "Is model.encoder right?"
        raise UserError(f"{path} does not hold the weights of a {encoder}:\n{difference}\n{hint}")
    return {key: found[key] if key in found else torch.zeros((), dtype=torch.int64) for key in wanted}


def state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the one inside a checkpoint.

    Raises:
        UserError: if there is none.
    """
    if isinstance(value, Mapping):
        inside = [key for key in _CONTAINERS if _holds_tensors(value.get(key))]
        if len(inside) > 1:
            log.info("%s holds %s: taking %s", path.name, " and ".join(sorted(inside)), inside[0])
        if inside:
            value = value[inside[0]]
    if not isinstance(value, Mapping):
        raise UserError(f"{path}: expected a state dict, found a {type(value).__name__}")
    tensors = {str(key): item for key, item in value.items() if isinstance(item, Tensor)}
    if not tensors:
        raise UserError(f"{path}: there is no tensor in it")
    return tensors


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def key_difference(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], others: tuple[str, ...] = ()) -> str:
    """How `found` differs from `wanted`, for people: one line per key, `-` missing, `+` unexpected, `~` of another
    shape. Empty if there is no difference.

    A counter of batch norm may be missing, as no output depends on it; keys that begin with one of `others` are
    allowed.
    """
    missing = [f"- {key}" for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    unexpected = [f"+ {key}" for key in found if key not in wanted and not key.startswith(others)]
    shapes = [
        f"~ {key}: {tuple(found[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    parts = [_listed("missing", missing), _listed("unexpected", unexpected), _listed("of another shape", shapes)]
    return "\n".join(part for part in parts if part)


def _listed(what: str, lines: list[str]) -> str:
    if not lines:
        return ""
    shown = [f"    {line}" for line in lines[:_SHOWN]]
    more = [f"    … and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join([f"  {what}, {len(lines)}:", *shown, *more])


def _best_part(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys behind the prefixes that have most of the wanted keys, without these prefixes.

    Keys with other prefixes are other parts: the projector, a momentum encoder, a memory bank. If several prefixes have
    as many, the shortest is taken.
    """
    parts: dict[str, dict[str, Tensor]] = {"": {}}
    for key, value in state.items():
        for prefix in _prefixes(key):
            parts.setdefault(prefix, {})[key.removeprefix(prefix)] = value
    best = max(parts, key=lambda prefix: (len(parts[prefix].keys() & wanted.keys()), -len(prefix)))
    return parts[best]


def _prefixes(key: str) -> Iterator[str]:
    """Everything that may be removed from the front of `key`: known prefixes one after another, each at most once."""
    yield ""
    taken, left = "", set(_PREFIXES)
    while prefix := next((one for one in left if key.startswith(taken + one)), ""):
        taken += prefix
        left.remove(prefix)
        yield taken


def _who_fits(found: Mapping[str, Tensor]) -> str | None:
    """The encoder of torchvision that has exactly these weights, if there is one."""
    for name in encoder_names():
        if not key_difference(found, build_encoder_on_meta(name).state_dict(), others=_OTHER_PARTS):
            return name
    return None
