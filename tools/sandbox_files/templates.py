"""Reads and fills the templates of Slurm's configuration files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


def template(name: str) -> str:
    """The text of the template `name` in this folder."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace each @name@ by its value, also in the values."""
    while (filled := re.sub(r"@(\w+)@", lambda match: values[match[1]], text)) != text:
        text = filled
    return text
