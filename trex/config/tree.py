"""Parses YAML text to a tree of raw values with their positions. Values are not interpreted here.

PyYAML's own typing is not used on purpose: it reads `1e-4` as text, `12:30:00` as 45000 and `no` as false. Every leaf
keeps the text as it was written, and the type of the setting decides what the text means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
    for loader in _LOADERS:
        found: list[Mistake] = []
        try:
            node = _Builder(yaml.parse(text, Loader=loader), source, found).document()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
            mistake = Mistake(where, f"not valid YAML: {error.problem}")
        except yaml.YAMLError as error:
            mistake = Mistake(source, f"not valid YAML: {' '.join(str(error).split())}")
        else:
            mistakes += found
            return node
    mistakes.append(mistake)
    return None


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


#: libyaml is ten times as fast. What it refuses is parsed again by PyYAML itself, whose messages are clearer.
_LOADERS = (*filter(None, [getattr(yaml, "CSafeLoader", None)]), yaml.SafeLoader)


class _Builder:
    """Builds the tree from the events of a parser.

    Refuses anchors, aliases and tags: a config does not need them, and an attacker can misuse them. No parser nests
    calls for nested values, so a file of a million brackets is refused like any other mistake.
    """

    def __init__(self, events: Iterator[yaml.Event], source: str, mistakes: list[Mistake]) -> None:
        self._events, self._source, self._mistakes = events, source, mistakes

    def document(self) -> Node | None:
        """Return the only document, or None if there is none."""
        next(self._events)  # the start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        node = self._node(next(self._events), depth=0)
        next(self._events)  # the end of the document
        if not isinstance(after := next(self._events), yaml.StreamEndEvent):
            _refuse("but found another document", after)
        return node

    def _node(self, event: yaml.Event, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            _refuse("anchors and aliases are not allowed: write the value out", event)
        if tag := getattr(event, "tag", None):
            _refuse(f"tags such as {tag} are not allowed: write a plain value", event)
        where = self._place(event)
        if isinstance(event, yaml.ScalarEvent):
            return Leaf(event.value, quoted=bool(event.style), where=where)
        if depth >= MAX_DEPTH:
            _refuse(f"nested more than {MAX_DEPTH} levels deep", event)
        if isinstance(event, yaml.SequenceStartEvent):
            return Items(list(self._items(depth + 1)), where)
        return self._branch(where, depth + 1)

    def _items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            yield self._node(event, depth)

    def _branch(self, where: str, depth: int) -> Branch:
        branch = Branch(where)
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            place, key = self._place(event), self._node(event, depth)
            value = self._node(next(self._events), depth)
            if not isinstance(key, Leaf):
                self._mistakes.append(Mistake(place, "expected a plain word as key"))
            elif key.text in branch.values:
                first = branch.places[key.text]
                self._mistakes.append(Mistake(place, f"'{key.text}' is set twice (first at {first}): keep one"))
            else:
                branch.values[key.text] = value
                branch.places[key.text] = place
        return branch

    def _place(self, event: yaml.Event) -> str:
        if self._source.startswith("override"):
            return self._source
        mark = event.start_mark
        return f"{self._source}:{mark.line + 1}:{mark.column + 1}" if mark else self._source


def _refuse(problem: str, event: yaml.Event) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]
