"""Parts of messages: a number with its noun, and the suggestion for an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def counted(count: int, noun: str) -> str:
    """Return a text such as `1 node`, `2 nodes` or `2 processes`."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{ending}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a text such as `; did you mean 'resnet50'?` if `word` is close to one of `known`, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
