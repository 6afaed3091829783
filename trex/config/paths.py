"""Paths as users write them in settings and options: with `~` and with variables of the environment."""

from __future__ import annotations

import os.path
import re

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})?")


def expanded(text: str) -> str:
    """Replace `~`, `~user`, `$NAME` and `${NAME}` in a path, as a shell does.

    So a recipe can be used by several people and on several clusters. Nothing is left as it is, because the program
    would create a folder of that literal name.

    Raises:
        ValueError: if a variable is not set or empty, a `$` names no variable, or no such user has a home. The message
            continues a sentence after the setting's name.
    """

    def value_of(match: re.Match[str]) -> str:
        if match.lastindex is None:
            raise ValueError(f"is {text!r}, in which a $ names no variable: expected $NAME or ${{NAME}}")
        found = os.path.expandvars(match[0])
        if found in (match[0], ""):
            name = match[match.lastindex]
            raise ValueError(f"is {text!r}, but {name} is not set in this environment: set it, or write the path out")
        if any(ord(character) < 32 for character in found):
            raise ValueError(f"is {text!r}: a variable in it has a line break or control character")
        return found

    path = os.path.expanduser(_VARIABLE.sub(value_of, text))  # noqa: PTH111 - a Path would drop a ./ before a ~
    if path.startswith("~"):
        raise ValueError(f"is {text!r}, but there is no such home folder: write the path out, or begin it with ./")
    return path
