"""Encoder weights from files: this project's checkpoints, the released ones, and other people's encoders."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trex import tensor_files
from trex.errors import UserError
from trex.files import sha256
from trex.model import networks
from trex.model.encoder import build_encoder_on_meta, encoder_names
from trex.model.key_map import KeyMap, suggestion
from trex.wording import counted

log = logging.getLogger(__name__)

#: Keys that may appear with the same prefix as the encoder's keys: the heads of classifiers and of pretext tasks.
_HEADS = (
    "fc.", "head.", "heads.", "classifier.", "projector.", "projection_head.", "prototypes.", "predictor.",
)  # fmt: skip
_MAX_SHOWN = 8


@dataclass(frozen=True)
class EncoderWeights:
    """An encoder's state dict from a file."""

    state: dict[str, Tensor]
    choice: str = ""  #: if the file holds several complete networks: which of them this is, in words


@dataclass(frozen=True)
class KeyMapSetting:
    """The file that maps the names in a weights file, if there is one, and the setting that names it."""

    path: Path | None = None
    setting: str = "extract.key_map"

    @property
    def record(self) -> dict[str, str]:
        """The entry for checkpoints and events: the file and its SHA-256."""
        return {} if self.path is None else {"key_map": str(self.path), "key_map_sha256": sha256(self.path)}


def read_encoder(path: Path, encoder: str, key_map: Path | None = None) -> dict[str, Tensor]:
    """Read an encoder's state dict from a file, complete and with the right shapes.

    If the file holds several complete networks, the log says which of them is used.

    Args:
        path: a safetensors or PyTorch file, read weights-only.
        encoder: name of the architecture that the weights must fit.
        key_map: a file that maps the names in `path` to the encoder's (`trex.model.key_map`).

    Raises:
        UserError: if a file cannot be read, or does not hold exactly this encoder's weights. Weights are never loaded
            partially.
    """
    return find_encoder(read_file(path), encoder, path, KeyMapSetting(key_map)).state


def read_file(path: Path) -> Any:
    """Read the content of a weights file, unchanged; see `read_encoder`."""
    return tensor_files.load(path)


def find_encoder(value: Any, encoder: str, path: Path, key_map: KeyMapSetting | None = None) -> EncoderWeights:
    """Return the encoder's weights in `value`, the content of the file `path`; see `read_encoder`."""
    key_map = key_map or KeyMapSetting()
    wanted = build_encoder_on_meta(encoder).state_dict()
    states = networks.state_dicts(value, path)
    if key_map.path:
        found, choice = _mapped(states, path, KeyMap.read(key_map.path)), ""
        hint = f"A name in the file that the encoder does not need is left out by a line `name: null` in {key_map.path}"
    else:
        found, choice, hint = _chosen(states, wanted, encoder, path, key_map)
    difference = key_difference(found, wanted, allowed=_HEADS)
    if difference:
        fitting = _fitting_encoder(found)
        if fitting:
            hint = f"The file holds a {fitting}: set model.encoder={fitting}"
        hint = hint or suggestion(found, wanted, key_map.setting) or "Check model.encoder."
        raise UserError(f"{path} does not hold the weights of a {encoder}:\n{difference}\n{hint}")
    if choice:
        log.warning("%s holds several networks: %s", path.name, choice)
    state = {key: found[key] if key in found else torch.zeros((), dtype=torch.int64) for key in wanted}
    return EncoderWeights(state, choice)


_States = Mapping[str, Mapping[str, Tensor]]


def _mapped(states: _States, path: Path, mapping: KeyMap) -> dict[str, Tensor]:
    """Return the weights under the names of a mapping file.

    A line may name a state dict that is not used by default, such as `student.`; then its weights are included.
    """
    (_, default), *others = states.items()
    named = {
        f"{other}.{key}": value
        for other, state in others
        if any(line.startswith(f"{other}.") for line in mapping.lines)
        for key, value in state.items()
    }
    return mapping.apply({**default, **named}, path)


def _chosen(
    states: _States, wanted: Mapping[str, Tensor], encoder: str, path: Path, key_map: KeyMapSetting
) -> tuple[dict[str, Tensor], str, str]:
    """Return the weights of the network that a file holds under known keys and prefixes; its name; a hint for errors.

    Raises:
        UserError: if it holds several, and no convention says which of them the encoder is.
    """
    (container, state), *others = states.items()
    complete = networks.complete_networks(state, wanted)
    known = [prefix for prefix in complete if networks.is_known(prefix)]
    if len(known) > 1:
        raise UserError(f"{path} holds {counted(len(known), 'complete network')}. {_question(known, encoder, key_map)}")
    prefix = known[0] if known else networks.best_prefix(state, wanted)
    unused = [other for other in complete if other != prefix]
    unused += [f"{name}.{other}" for name, inside in others for other in networks.complete_networks(inside, wanted)]
    if not known and unused:
        return networks.behind(prefix, state), "", _question(unused, encoder, key_map)
    used = f"{container}.{prefix}" if others else prefix
    choice = f"{_shown(used)} is used, {' and '.join(map(_shown, unused))} not" if unused else ""
    return networks.behind(prefix, state), choice, ""


def _question(prefixes: list[str], encoder: str, key_map: KeyMapSetting) -> str:
    first, *others = prefixes
    lines = [f"'{first}': ''", "'': null"] if first else [f"'{other}': null" for other in others]
    return (
        f"It holds a {encoder} under {' and '.join(map(_shown, prefixes))}. To use the first, set {key_map.setting} to "
        f"a file with these lines, which map its names and leave out all others:\n    " + "\n    ".join(lines)
    )


def _shown(prefix: str) -> str:
    return f"'{prefix}'" if prefix else "the names without prefix"


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


def _fitting_encoder(found: Mapping[str, Tensor]) -> str | None:
    """Return the name of torchvision's encoder that these weights fit, or None."""
    for name in encoder_names():
        if not key_difference(found, build_encoder_on_meta(name).state_dict(), allowed=_HEADS):
            return name
    return None
