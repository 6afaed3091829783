"""Mapping files: the names of weights in other people's files and an encoder's names (`extract.key_map`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from trex.errors import UserError

_COUNTER = "num_batches_tracked"  #: of batch norms; no output depends on it
_MAX_SHOWN = 8


@dataclass(frozen=True)
class KeyMap:
    """The lines of a mapping file: a name in the file, and the encoder's name or None (the weight is not used).

    A name that ends in a dot, or is empty, stands for all names that start with it.
    """

    path: Path
    lines: Mapping[str, str | None]

    @classmethod
    def read(cls, path: Path) -> KeyMap:
        """Read a mapping file, in YAML or JSON.

        Raises:
            UserError: if the file cannot be read, or holds anything but `name: name` lines.
        """
        from trex.config.tree import Leaf, Mistake, read_tree  # PyYAML; torch.hub works without it

        mistakes: list[Mistake] = []
        tree = read_tree(path, mistakes)
        lines: dict[str, str | None] = {}
        for old, node in tree.values.items():
            if not isinstance(node, Leaf):
                mistakes.append(Mistake(node.where, f"'{old}': expected a name, or null"))
                continue
            new = None if node.is_null else node.text
            if new is not None and _is_prefix(old) != _is_prefix(new):
                mistakes.append(
                    Mistake(node.where, f"'{old}: {new}': expected two names, or two prefixes (which end in a dot)")
                )
            lines[old] = new
        if mistakes:
            raise UserError("\n".join(map(str, mistakes)))
        if not lines:
            raise UserError(f"{path}: expected lines with a name in the weights file and the encoder's name")
        return cls(path, lines)

    def apply(self, state: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
        """Return `state` under the new names. A name that no line stands for stays as it is.

        Args:
            state: the weights by their names in the file.
            file: their file, for error messages.

        Raises:
            UserError: if a line stands for no name, or two names become the same.
        """
        made: dict[str, Tensor] = {}
        origins: dict[str, str] = {}
        for key, value in state.items():
            new = self.new_name(key)
            if new is None:
                continue
            if new in made:
                raise UserError(f"{self.path}: both '{origins[new]}' and '{key}' of {file} become '{new}'")
            made[new], origins[new] = value, key
        used = {self._line(key) for key in state}
        if unused := [old for old, new in self.lines.items() if new is not None and old not in used]:
            shown = ", ".join(f"'{old}'" for old in unused[:_MAX_SHOWN])
            raise UserError(f"{self.path}: {file} has no weight for {len(unused)} of its lines: {shown}")
        return made

    def new_name(self, key: str) -> str | None:
        """The encoder's name for a name in the file; None: the weight is not used."""
        line = self._line(key)
        if line is None:
            return key
        new = self.lines[line]
        return None if new is None else new + key.removeprefix(line)

    def _line(self, key: str) -> str | None:
        """The line that stands for a name: the name itself, or the longest prefix."""
        prefix = key
        while prefix not in self.lines:
            if not prefix:
                return None
            shorter, dot, _ = prefix.removesuffix(".").rpartition(".")
            prefix = shorter + dot
        return prefix


def _is_prefix(name: str) -> bool:
    return not name or name.endswith(".")


def suggest(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, str | None]:
    """Return the lines that pair the names of two state dicts in their order, or {} if the shapes differ in order.

    Two libraries often define the same network under other names, but in the same order. Equal shapes do not prove that
    the weights mean the same, so nothing is loaded with these lines unless a person has put them into a file.

    Args:
        found: the weights in the file. Those after the last pair, such as a classifier's, get None.
        wanted: the encoder's weights.
    """
    theirs, ours = ([key for key in state if not key.endswith(_COUNTER)] for state in (found, wanted))
    pairs = list(zip(theirs, ours, strict=False))
    if len(theirs) < len(ours) or any(found[old].shape != wanted[new].shape for old, new in pairs):
        return {}
    rest: dict[str, str | None] = dict.fromkeys(theirs[len(ours) :])
    by_module = {old: new for old, new in map(_modules, pairs) if old != new} | rest
    counters = [key for key in found if key.endswith(_COUNTER)]
    mapping = KeyMap(Path(), by_module)
    if all(mapping.new_name(old) == new for old, new in pairs) and all(
        mapping.new_name(key) in wanted for key in counters
    ):
        return by_module
    return {old: new for old, new in pairs if old != new} | rest | dict.fromkeys(counters)


def _modules(pair: tuple[str, str]) -> tuple[str, str]:
    """The two prefixes of a pair whose last components are equal; otherwise the pair."""
    (old, _, last), (new, _, other) = (name.rpartition(".") for name in pair)
    return (f"{old}.", f"{new}.") if old and new and last == other else pair


def suggestion(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], setting: str) -> str:
    """Say what a mapping file would need for weights whose names do not fit, or return an empty text.

    Args:
        found: the weights in the file.
        wanted: the encoder's weights.
        setting: the setting that names a mapping file.
    """
    missing = [key for key in wanted if key not in found and not key.endswith(_COUNTER)]
    unused = [key for key in found if key not in wanted and not key.endswith(_COUNTER)]
    if not missing or not unused:
        return ""
    if lines := suggest(found, wanted):
        shown = list(lines.items())[:_MAX_SHOWN]
        more = [f"    … and {len(lines) - len(shown)} more"] if len(lines) > len(shown) else []
        return "\n".join(
            [
                f"If these are the same weights under other names, write a file that maps the names and set {setting} "
                f"to it. All shapes agree in their order, so it could begin as follows (docs/zoo.md shows how to write "
                f"all lines):",
                *(f"    {old}: {'null' if new is None else new}" for old, new in shown),
                *more,
            ]
        )
    return "\n".join(
        [
            f"If these are the same weights under other names, write a file that maps {len(missing)} of the file's "
            f"{len(unused)} names to the encoder's and set {setting} to it (docs/zoo.md). By shape:",
            *itertools.islice(_by_shape(found, wanted, missing, unused), _MAX_SHOWN),
        ]
    )


def _by_shape(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], missing: list[str], unused: list[str]
) -> Iterator[str]:
    for key in missing:
        shape = tuple(wanted[key].shape)
        fitting = [name for name in unused if tuple(found[name].shape) == shape]
        listed = ", ".join(fitting[:2]) + (f", … ({len(fitting)})" if len(fitting) > 2 else "")
        yield f"    {key} {shape}: {listed or 'none'}"
