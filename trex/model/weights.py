"""Encoder weights from files: this project's checkpoints, the released ones, and other people's ResNets."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trex import tensor_files
from trex.errors import UserError
from trex.model.encoder import build_encoder

#: Keys under which toolkits put a state dict inside a checkpoint.
_CONTAINERS = ("model", "state_dict")
#: Prefixes that toolkits put before an encoder's keys: stripped from the front, once each, never from the middle.
_PREFIXES = ("module.", "model.", "backbone.", "encoder.", "base_encoder.")
#: What a checkpoint may hold besides the encoder.
_CLASSIFIER = ("fc.",)


def read_encoder(path: Path, encoder: str) -> dict[str, Tensor]:
    """The encoder's state dict from a file, complete and of the right shapes.

    Args:
        path: a PyTorch file; read weights-only. `argparse.Namespace` is allowed in it: released checkpoints hold one.
        encoder: name of the architecture that the weights must fit.

    Raises:
        UserError: if the file cannot be read, or does not hold exactly this encoder's weights: nothing loads partially.
    """
    found = _encoder_part(_state_dict(tensor_files.load(path, allowed=(argparse.Namespace,)), path))
    wanted = build_encoder(encoder).state_dict()
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in found if key not in wanted and not key.startswith(_CLASSIFIER)]
    shapes = [
        f"{key}: {tuple(found[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    if missing or unexpected or shapes:
        lines = [_listed("missing", missing), _listed("unexpected", unexpected), _listed("of another shape", shapes)]
        problems = "\n".join(line for line in lines if line)
        raise UserError(f"{path} does not hold the weights of a {encoder}:\n{problems}\nIs model.encoder right?")
    return {key: found.get(key, wanted[key]) for key in wanted}


def _state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    for key in _CONTAINERS:
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
            break
    if not isinstance(value, Mapping):
        raise UserError(f"{path}: expected a state dict, found a {type(value).__name__}")
    tensors = {str(key): item for key, item in value.items() if isinstance(item, torch.Tensor)}
    if not tensors:
        raise UserError(f"{path}: there is no tensor in it")
    return tensors


def _encoder_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's keys alone: in a checkpoint of a whole model other parts stand beside `encoder.` or `backbone.`."""
    return {_without_prefixes(key): value for key, value in state.items() if _is_of_encoder(key, state)}


def _is_of_encoder(key: str, state: Mapping[str, Tensor]) -> bool:
    marked = [mark for mark in ("encoder.", "backbone.") if any(_after_wrappers(k).startswith(mark) for k in state)]
    return not marked or _after_wrappers(key).startswith(marked[0])


def _after_wrappers(key: str) -> str:
    """The key behind what only wraps the model."""
    for prefix in ("module.", "model."):
        key = key.removeprefix(prefix)
    return key


def _without_prefixes(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _listed(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    shown = "\n".join(f"    {key}" for key in keys[:8])
    return f"  {what} ({len(keys)}):\n{shown}" + ("\n    …" if len(keys) > 8 else "")
