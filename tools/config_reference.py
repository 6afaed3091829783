"""Print docs/config.md: every setting with its type, default and meaning, from trex/config/schema.py."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

from trex.config import Config
from trex.config.loader import to_dict

HEAD = """# Settings

Made from `trex/config/schema.py` by `make docs`. The defaults are the t-ReX* recipe. *resumable* settings may change
between the attempts of one run; a change of any other makes it another run, which needs another name.
"""


def lines(cls: type[Any], title: str) -> Iterator[str]:
    """The section of one dataclass: its own settings first, then its sections."""
    hints = typing.get_type_hints(cls)
    plain = [field for field in dataclasses.fields(cls) if not dataclasses.is_dataclass(hints[field.name])]
    yield f"\n## {title}\n"
    yield "| setting | type | default | meaning |\n|---|---|---|---|"
    for field in plain:
        default = field.default_factory() if callable(field.default_factory) else field.default
        note = " *resumable*" if field.metadata["resumable"] else ""
        kind = _type(hints[field.name]).replace("|", "\\|")
        yield f"| `{field.name}` | {kind} | {_value(default)} | {field.metadata['doc']}{note} |"
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from lines(typing.cast(type[Any], hints[field.name]), f"{field.name}: {field.metadata['doc']}")


def _type(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(f"`{choice}`" for choice in typing.get_args(kind))
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")


def _value(value: Any) -> str:
    text = str(to_dict(value)) if not isinstance(value, str) else value
    return f"`{text}`" if len(text) < 60 else f"`{text[:50]}…`"


def main() -> None:
    """Write the page to standard output."""
    print(HEAD + "\n".join(lines(Config, "The run")))


if __name__ == "__main__":
    main()
