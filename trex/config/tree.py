"""Parses YAML text to a tree of raw values with their positions. Values are not interpreted here.

PyYAML's own typing is not used on purpose: it reads `1e-4` as text, `12:30:00` as 45000 and `no` as false. Every leaf
keeps the text as it was written, and the type of the setting decides what the text means.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import yaml

from trex.stand_ins import require_file

MAX_BYTES = 1 << 20
MAX_DEPTH = 20


@dataclass(frozen=True)
class Mistake:
    """One mistake in a config: where it is, and what is wrong."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class Leaf:
    """A scalar as it was written. `quoted` distinguishes `"64"` from `64`."""

    text: str
    quoted: bool
    where: str

    @property
    def is_null(self) -> bool:
        """Whether the value is empty, `~` or `null`."""
        return not self.quoted and self.text in ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class Items:
    """A list."""

    values: list[Node]
    where: str


@dataclass
class Branch:
    """A mapping. `places` holds the position of each key."""

    where: str
    values: dict[str, Node] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)


Node = Leaf | Items | Branch


def read_tree(path: Path, mistakes: list[Mistake]) -> Branch:
    """Parse a YAML file. If it cannot be parsed, append the reason to `mistakes` and return an empty branch."""
    empty = Branch(str(path))
    try:
        require_file(path)
        if path.stat().st_size > MAX_BYTES:
            mistakes.append(Mistake(str(path), "is larger than 1 MiB, so it is not a config file"))
            return empty
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        mistakes.append(Mistake(str(path), f"cannot be read: {error.strerror}"))
        return empty
    except UnicodeDecodeError:
        mistakes.append(Mistake(str(path), "is not UTF-8 text"))
        return empty
    node = parse(text, str(path), mistakes)
    if node is None:
        return empty
    if not isinstance(node, Branch):
        mistakes.append(Mistake(node.where, "expected `key: value` lines at the top of the file"))
        return empty
    return node


def parse(text: str, source: str, mistakes: list[Mistake]) -> Node | None:
    """Parse YAML text to a tree. Returns None if the text is empty or not YAML; the latter is added to `mistakes`."""
    try:
        node = yaml.compose(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        mistakes.append(Mistake(where, f"not valid YAML: {error.problem}"))
        return None
    except yaml.YAMLError as error:
        mistakes.append(Mistake(source, f"not valid YAML: {' '.join(str(error).split())}"))
        return None
    except RecursionError:
        mistakes.append(Mistake(source, f"nested more than {MAX_DEPTH} levels deep"))
        return None
    return None if node is None else _convert(node, source, mistakes, depth=0)


def override(tree: Branch, assignment: str, mistakes: list[Mistake]) -> None:
    """Apply one override `section.key=value` from the command line to the tree."""
    source = f"override '{assignment}'"
    dotted, sign, text = assignment.partition("=")
    keys = dotted.split(".")
    if not sign or not all(re.fullmatch(r"\w[\w:-]*", key) for key in keys):
        mistakes.append(Mistake(source, "expected the form section.key=value"))
        return
    value = parse(text, source, mistakes) if text.strip() else Leaf("", quoted=False, where=source)
    if value is None:
        return
    branch = tree
    for key in keys[:-1]:
        child = branch.values.get(key)
        if not isinstance(child, Branch):
            child = Branch(source)
            branch.values[key] = child
            branch.places[key] = source
        branch = child
    branch.values[keys[-1]] = value
    branch.places[keys[-1]] = source


class _PlainLoader(yaml.SafeLoader):
    """Refuses anchors, aliases and tags: a config does not need them, and an attacker can misuse them."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            _refuse("anchors and aliases are not allowed: write the value out", event)
        if getattr(event, "tag", None):
            _refuse(f"tags such as {event.tag} are not allowed: write a plain value", event)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


def _refuse(problem: str, event: yaml.Event) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]


def _convert(node: yaml.Node, source: str, mistakes: list[Mistake], depth: int) -> Node:
    is_file = not source.startswith("override")
    where = f"{source}:{node.start_mark.line + 1}:{node.start_mark.column + 1}" if is_file else source
    if depth > MAX_DEPTH:
        mistakes.append(Mistake(where, f"nested more than {MAX_DEPTH} levels deep"))
        return Leaf("", quoted=False, where=where)
    if isinstance(node, yaml.ScalarNode):
        return Leaf(node.value, quoted=node.style is not None, where=where)
    if isinstance(node, yaml.SequenceNode):
        return Items([_convert(item, source, mistakes, depth + 1) for item in node.value], where)
    branch = Branch(where)
    for key_node, value_node in node.value:
        mark = key_node.start_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if is_file else source
        if not isinstance(key_node, yaml.ScalarNode):
            mistakes.append(Mistake(place, "expected a plain word as key"))
            continue
        key = key_node.value
        if key in branch.values:
            mistakes.append(Mistake(place, f"'{key}' is set twice (first at {branch.places[key]}): keep one"))
            continue
        branch.values[key] = _convert(value_node, source, mistakes, depth + 1)
        branch.places[key] = place
    return branch
