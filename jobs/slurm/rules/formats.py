"""Reads the values that Slurm's programs print: lines of KEY=VALUE, limits, times, memory, node features, TRES."""

from __future__ import annotations

import re

from jobs.slurm.limits import TIME, seconds

#: What Slurm prints for a limit that is not set.
_NO_LIMIT = {"", "UNLIMITED", "INFINITE", "NONE", "N/A", "(NULL)", "-1"}
_MEGABYTES = {"": 1.0, "K": 2.0**-10, "M": 1.0, "G": 2.0**10, "T": 2.0**20, "P": 2.0**30}


def pairs(line: str) -> dict[str, str]:
    """Return the values of a line of `scontrol show … --oneliner` by key. Words without a key are left out."""
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def names(text: str) -> frozenset[str] | None:
    """Return the names in a list such as `a,b`; None for ALL and for no list."""
    return None if text.upper() in {"ALL", *_NO_LIMIT} else frozenset(text.split(","))


def number(text: str) -> int | None:
    """Return a whole number, also one with a suffix such as 4K; None if there is no limit or it is no number."""
    found = re.fullmatch(r"(\d+)([KMGT]?)", text)
    power = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
    return int(found[1]) * 1024 ** power[found[2]] if found else None


def time_limit(text: str) -> int | None:
    """Return a time limit in seconds; None if there is no limit or it is no time."""
    return seconds(text) if text.upper() not in _NO_LIMIT and re.fullmatch(TIME, text) else None


def megabytes(text: str) -> float | None:
    """Return an amount of memory in megabytes, as Slurm counts them (without a unit: MB); None if it is no amount."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)B?", text.upper())
    return float(found[1]) * _MEGABYTES[found[2]] if found else None


def tres(text: str) -> dict[str, float]:
    """Return the amounts in a list such as `cpu=32,mem=80000M,gres/gpu=4` by name; memory in megabytes."""
    found = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        amount = megabytes(value) if name == "mem" else number(value)
        if amount is not None:
            found[name] = float(amount)
    return found


def gpus(text: str) -> dict[str, int]:
    """Return the number of GPUs in a list such as `gpu:a100:4(S:0-1),gpu:2` by type; those without a type under "".

    Other generic resources are left out.
    """
    found: dict[str, int] = {}
    for part in re.sub(r"\([^)]*\)", "", text).split(","):
        name, *rest = re.split("[:=]", part.removeprefix("gres/"))
        kind = rest[0] if len(rest) > 1 or (rest and not rest[0].isdigit()) else ""
        count = number(rest[-1]) if rest and rest[-1] != kind else 1
        if name == "gpu" and count is not None:
            found[kind] = found.get(kind, 0) + count
    return found


def has_features(wanted: str, has: frozenset[str]) -> bool | None:
    """Return whether a node has the features of a constraint; None if the constraint has counts or nested brackets.

    `a|b`, `a&b` and `a,b` are understood, and `[a|b]`, which asks for the same alternative on all nodes.
    """
    plain = wanted.removeprefix("[").removesuffix("]")
    if re.search(r"[\[\]()*]", plain):
        return None
    return any(all(name in has for name in re.split("[&,]", choice)) for choice in plain.split("|"))
