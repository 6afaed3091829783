"""Converts a tree of raw values to typed, frozen dataclasses. Reports all mistakes at once, each with its position.

No config library names the line, suggests the nearest key and reports all mistakes together (docs/adr/0002). This small
loader does, and needs only `dataclasses`, `difflib` and PyYAML's marks.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from trex.config.paths import expanded
from trex.config.tree import Branch, Items, Leaf, Mistake, Node, override, read_tree
from trex.errors import UserError
from trex.wording import counted, did_you_mean

T = TypeVar("T")

_WHOLE = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")


class ConfigError(UserError):
    """All mistakes in a config, one line per mistake."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        head = f"{counted(len(self.mistakes), 'mistake')} in the config:"
        super().__init__("\n".join([head, *(f"  {mistake}" for mistake in self.mistakes)]))


def setting(
    default: Any,
    doc: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    pattern: str | None = None,
    path: bool = False,
    resumable: bool = False,
) -> Any:
    """Define a setting as a dataclass field.

    Args:
        default: default value.
        doc: meaning, for docs/config.md.
        at_least: smallest allowed value.
        at_most: largest allowed value.
        above: the value must be larger than this.
        pattern: regular expression that the complete text must match.
        path: whether the text, or each value of a dict of texts, is a path, in which `~` and variables are replaced.
        resumable: whether the setting may change between the attempts of a run, because it cannot change the result.
    """
    meta = {
        "doc": doc,
        "at_least": at_least,
        "at_most": at_most,
        "above": above,
        "pattern": pattern,
        "path": path,
        "resumable": resumable,
    }
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=functools.partial(type(default), default), metadata=meta)
    return dataclasses.field(default=default, metadata=meta)


def section(cls: type[T], doc: str, *, resumable: bool = False) -> T:
    """Define a group of settings as a dataclass field."""
    field: T = dataclasses.field(default_factory=cls, metadata={"doc": doc, "resumable": resumable})
    return field


def chosen_section(package: str, default: str, doc: str) -> Any:
    """Define a group of settings whose class is chosen by its key `name`, as a dataclass field.

    Each module of `package` whose name does not begin with `_` is one choice, with the module's name. It defines one
    dataclass with a field `name: Literal["<module>"]`. A module is imported only if it is chosen.
    """
    factory = functools.partial(_default_choice, package, default)
    return dataclasses.field(
        default_factory=factory, metadata={"doc": doc, "resumable": False, "package": package, "default": default}
    )


def choices(package: str) -> list[str]:
    """The names that can be chosen in a `chosen_section` of this package, sorted."""
    paths = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(paths) if not module.name.startswith("_"))


def chosen_class(package: str, name: str) -> type[Any]:
    """The settings class that the module `name` of `package` defines."""
    module = importlib.import_module(f"{package}.{name}")
    defined = [item for item in vars(module).values() if getattr(item, "__module__", "") == module.__name__]
    [found] = [item for item in defined if isinstance(item, type) and "name" in _hints(item)]
    assert _chosen_name(_hints(found)) == name, f"{module.__file__}: the field `name` is Literal[{name!r}]"
    return found


def _chosen_name(hints: Mapping[str, Any]) -> str | None:
    """The name that chooses this settings class; None for a class that is not chosen by name."""
    kind = hints.get("name")
    return get_args(kind)[0] if get_origin(kind) is Literal else None


def _default_choice(package: str, name: str) -> Any:
    return chosen_class(package, name)()


def load(
    path: Path | None,
    cls: type[T],
    overrides: Iterable[str] = (),
    further_problems: Callable[[T], Iterable[tuple[str, str]]] | None = None,
) -> T:
    """Read a YAML file as the dataclass `cls`.

    Args:
        path: the file; None: only defaults.
        cls: the class of the result.
        overrides: settings of the form `section.key=value`, which replace those of the file.
        further_problems: returns problems that the dataclass itself cannot check, each as a setting, such as
            `train.options`, and a message that continues a sentence after the setting's name.

    Raises:
        ConfigError: with all mistakes of file and overrides.
    """
    mistakes: list[Mistake] = []
    tree = Branch("defaults") if path is None else read_tree(path, mistakes)
    for assignment in overrides:
        override(tree, assignment, mistakes)
    value = _Converter(mistakes).dataclass(tree, cls, prefix="")
    if not mistakes and value is not None and further_problems is not None:
        mistakes += [Mistake(_place(tree, key), f"'{key}' {message}") for key, message in further_problems(value)]
    if mistakes or value is None:
        raise ConfigError(mistakes)
    return value


def _place(tree: Branch, key: str) -> str:
    """The position of `section.key` in the file; the position of its section if the file does not set it."""
    place, node = tree.where, tree
    for name in key.split("."):
        place = node.places.get(name, node.where)
        child = node.values.get(name)
        if not isinstance(child, Branch):
            break
        node = child
    return place


def to_dict(value: Any) -> Any:
    """Convert a config to plain dicts, lists and scalars, in the order of its fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_dict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_dict(item) for item in value]
    return value


def to_yaml(value: Any) -> str:
    """Convert a config to YAML text. `load` reads it back as an equal config."""
    return yaml.safe_dump(to_dict(value), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


class _Converter:
    """Converts nodes to values of the expected type and collects mistakes. An invalid value becomes None."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes

    def fail(self, where: str, message: str) -> None:
        self.mistakes.append(Mistake(where, message))

    def chosen(self, node: Node, package: str, default: str, prefix: str) -> Any:
        """A section whose class is chosen by its key `name`; see `chosen_section`."""
        name: Any = default
        if isinstance(node, Branch) and "name" in node.values:
            stated = node.values["name"]
            name = self.choice(stated if isinstance(stated, Leaf) else Leaf("", quoted=False, where=stated.where),
                               tuple(choices(package)), f"{prefix}name")  # fmt: skip
        return None if name is None else self.dataclass(node, chosen_class(package, name), prefix)

    def dataclass(self, node: Node, cls: type[T], prefix: str) -> T | None:
        if isinstance(node, Leaf) and node.is_null:
            node = Branch(node.where)
        if not isinstance(node, Branch):
            self.fail(node.where, f"'{prefix.rstrip('.')}' is a section: expected `key: value` lines below it")
            return None
        hints = _hints(cls)
        before = len(self.mistakes)
        values: dict[str, Any] = {}
        for key, child in node.values.items():
            if key not in hints:
                self.fail(node.places[key], _unknown(prefix + key, key, hints))
                continue
            values[key] = self.field(child, hints[key], prefix + key, _metadata(cls)[key])
        required = [f.name for f in dataclasses.fields(cls) if _is_required(f) and f.name not in values]  # type: ignore[arg-type]
        for name in required:
            self.fail(
                node.where,
                f"'{prefix}{name}' is missing: {_metadata(cls)[name].get('doc', 'it has no default')}",
            )
        if len(self.mistakes) > before:
            return None
        made = cls(**values)
        for key, message in getattr(made, "problems", list)():
            self.fail(node.places.get(key, node.where), f"'{prefix}{key}' {message}")
        return made

    def field(self, node: Node, kind: Any, key: str, meta: Mapping[str, Any]) -> Any:
        if "package" in meta:
            return self.chosen(node, meta["package"], meta["default"], key + ".")
        if dataclasses.is_dataclass(kind):
            return self.dataclass(node, typing.cast(type[Any], kind), key + ".")
        if get_origin(kind) is dict:
            return self.mapping(node, get_args(kind)[1], key, meta)
        value = self.value(node, kind, key)
        if meta.get("path") and isinstance(value, str):
            value = self.path(node, value, key)
        values = value if isinstance(value, tuple | list) else [value]
        for item in values:
            problem = _out_of_range(item, meta)
            if problem:
                self.fail(node.where, f"'{key}' is {item!r}: {problem}")
        return value

    def value(self, node: Node, kind: Any, key: str) -> Any:
        origin, inner = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            if isinstance(node, Leaf) and node.is_null and type(None) in inner:
                return None
            plain, *words = [item for item in inner if item is not type(None)]
            if words and isinstance(node, Leaf):  # a number, or one of some words
                return self.scalar(node, plain, key, get_args(words[0]))
            return self.value(node, plain, key)
        if origin is tuple:
            return self.sequence(node, inner, key)
        if not isinstance(node, Leaf):
            self.fail(
                node.where,
                f"'{key}' expected {_wanted(kind)}, got a {'list' if isinstance(node, Items) else 'section'}",
            )
            return None
        if origin is Literal:
            return self.choice(node, inner, key)
        return self.scalar(node, kind, key)

    def scalar(self, node: Leaf, kind: Any, key: str, words: tuple[str, ...] = ()) -> Any:
        wanted = " or ".join([_wanted(kind), *words])
        if node.text in words:
            return node.text
        if node.is_null:
            self.fail(node.where, f"'{key}' is empty: expected {wanted}")
            return None
        if kind is str:
            if any(ord(character) < 32 for character in node.text):
                self.fail(node.where, f"'{key}' has a line break or control character: expected one line of text")
                return None
            return node.text
        if node.quoted:
            self.fail(node.where, f"'{key}' expected {wanted}, got the text {node.text!r}: remove the quotes")
            return None
        parsed = _PARSERS[kind](node.text)
        if parsed is None:
            self.fail(node.where, f"'{key}' expected {wanted}, got {node.text!r}{did_you_mean(node.text, words)}")
        return parsed

    def choice(self, node: Leaf, choices: tuple[Any, ...], key: str) -> Any:
        by_text = {str(choice): choice for choice in choices}
        if node.text in by_text:
            return by_text[node.text]
        self.fail(
            node.where,
            f"'{key}' is {node.text!r}: expected one of {', '.join(by_text)}{did_you_mean(node.text, by_text)}",
        )
        return None

    def sequence(self, node: Node, inner: tuple[Any, ...], key: str) -> Any:
        if not isinstance(node, Items):
            self.fail(node.where, f"'{key}' expected a list such as [a, b]")
            return None
        if inner[-1] is Ellipsis:
            kinds = [inner[0]] * len(node.values)
        elif len(inner) != len(node.values):
            self.fail(node.where, f"'{key}' expected {len(inner)} values, got {len(node.values)}")
            return None
        else:
            kinds = list(inner)
        pairs = zip(node.values, kinds, strict=True)
        return tuple(self.value(item, kind, f"{key}[{i}]") for i, (item, kind) in enumerate(pairs))

    def path(self, node: Node, text: str, key: str) -> str | None:
        try:
            return expanded(text)
        except ValueError as error:
            self.fail(node.where, f"'{key}' {error}")
            return None

    def mapping(self, node: Node, kind: Any, key: str, meta: Mapping[str, Any]) -> Any:
        if isinstance(node, Leaf) and node.is_null:
            return {}
        if not isinstance(node, Branch):
            self.fail(node.where, f"'{key}' expected `name: value` lines below it")
            return None
        return {name: self.field(child, kind, f"{key}.{name}", meta) for name, child in node.values.items()}


def _hints(cls: Any) -> Mapping[str, Any]:
    """The types of a dataclass's fields, by name. Empty if `cls` is not a dataclass."""
    return _about(cls)[0]


def _metadata(cls: Any) -> Mapping[str, Mapping[str, Any]]:
    return _about(cls)[1]


@functools.cache
def _about(cls: Any) -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]]:
    if not dataclasses.is_dataclass(cls):
        return {}, {}
    types_of = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    return {field.name: types_of[field.name] for field in fields}, {field.name: field.metadata for field in fields}


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _unknown(full: str, key: str, hints: Mapping[str, Any]) -> str:
    hint, known = did_you_mean(key, hints), ", ".join(hints)
    if name := _chosen_name(hints):
        return f"unknown key '{full}': {name} has the settings {known}{hint}"
    return f"unknown key '{full}'{hint or f'; expected one of {known}'}"


def _out_of_range(value: Any, meta: Mapping[str, Any]) -> str | None:
    if isinstance(value, str) and meta.get("pattern") and not re.fullmatch(meta["pattern"], value):
        return f"expected text of the form {meta['pattern']}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if meta.get("at_least") is not None and value < meta["at_least"]:
        return f"expected at least {meta['at_least']}"
    if meta.get("above") is not None and value <= meta["above"]:
        return f"expected more than {meta['above']}"
    if meta.get("at_most") is not None and value > meta["at_most"]:
        return f"expected at most {meta['at_most']}"
    return None


def _to_int(text: str) -> int | None:
    return int(text) if _WHOLE.fullmatch(text) and len(text) < 1000 else None


def _to_float(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _to_bool(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.lower())


_PARSERS: dict[Any, Any] = {int: _to_int, float: _to_float, bool: _to_bool}


def _wanted(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(kind))
    return names.get(kind, "a value")
