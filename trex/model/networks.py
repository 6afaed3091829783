"""Where other people's files hold networks: under which keys of a checkpoint, and behind which prefixes of names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from trex.errors import UserError
from trex.placeholders import Array

#: Keys under which toolkits store a state dict in a checkpoint. If a file has several, the first of this list is used:
#: the trained network before its running average, as t-ReX is evaluated; DINO's teacher, as DINO is evaluated.
_CONTAINERS = ("model", "state_dict", "teacher", "student", "model_ema", "state_dict_ema")
#: Prefixes that toolkits put in front of an encoder's keys. Those of a momentum encoder (`module.model_ema.`,
#: `encoder_k.`, `momentum_encoder.`) are left out on purpose.
_PREFIXES = ("module.", "model.", "backbone.", "encoder.", "base_encoder.", "encoder_q.", "_orig_mod.")


def state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of `value`, which is a state dict or a checkpoint that contains one.

    Raises:
        UserError: if there is no state dict, or it contains no tensors.
    """
    return next(iter(state_dicts(value, path).values()))


def state_dicts(value: Any, path: Path) -> dict[str, dict[str, Tensor]]:
    """Return all state dicts of a checkpoint by their keys in it; the one to use comes first.

    Args:
        value: the content of the file `path`: a checkpoint, or a state dict, which gets the key "".
        path: the file, for error messages.

    Raises:
        UserError: if there is no state dict, or it contains no tensors.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"{path}: expected a state dict, found a {type(value).__name__}")
    inside = {key: _tensors(value[key]) for key in _CONTAINERS if isinstance(value.get(key), Mapping)}
    found = {key: tensors for key, tensors in inside.items() if tensors} or {"": _tensors(value)}
    if found == {"": {}}:
        raise UserError(f"{path}: it contains no tensors")
    return found


def _tensors(values: Mapping[Any, Any]) -> dict[str, Tensor]:
    converted = ((str(key), item.tensor() if isinstance(item, Array) else item) for key, item in values.items())
    return {key: item for key, item in converted if isinstance(item, Tensor)}


def complete_networks(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes, known or not, behind which `state` holds all tensors of `wanted` with the right shapes."""
    shapes = {key: value.shape for key, value in wanted.items() if not key.endswith("num_batches_tracked")}
    first = next(iter(shapes))
    prefixes = [key.removesuffix(first) for key in state if key == first or key.endswith(f".{first}")]
    return [
        prefix
        for prefix in prefixes
        if all((found := state.get(prefix + key)) is not None and found.shape == shapes[key] for key in shapes)
    ]


def is_known(prefix: str) -> bool:
    """Whether a prefix consists of known prefixes only, each at most once."""
    return prefix in _prefixes(prefix)


def best_prefix(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return the known prefix that is in front of most of the wanted keys.

    Keys with other prefixes belong to other parts of the network: the projector, a momentum encoder, a memory bank. If
    several prefixes have equally many wanted keys, the shortest is returned.
    """
    counts = {"": 0}
    for key in state:
        for prefix in _prefixes(key):
            counts[prefix] = counts.get(prefix, 0) + (key.removeprefix(prefix) in wanted)
    return max(counts, key=lambda prefix: (counts[prefix], -len(prefix)))


def behind(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _prefixes(key: str) -> Iterator[str]:
    """Yield every prefix that may be removed from `key`: known prefixes in any order, each at most once."""
    yield ""
    taken, left = "", set(_PREFIXES)
    while prefix := next((one for one in left if key.startswith(taken + one)), ""):
        taken += prefix
        left.remove(prefix)
        yield taken
