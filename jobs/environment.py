"""The process environment: the only place that reads or writes it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import trex


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def chosen_gpus() -> tuple[str, ...] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES lists, by number or UUID, as CUDA reads it; None where it is not set."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    names = (name.strip() for name in value.split(","))
    return tuple(itertools.takewhile(lambda name: name and not name.startswith("-"), names))


def config_home() -> Path | None:
    """The user's folder of settings, XDG_CONFIG_HOME or ~/.config; None for a user without a home."""
    chosen = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if chosen.is_absolute():  # a relative one is to be ignored, says the XDG specification
        return chosen
    try:
        return Path.home() / ".config"
    except RuntimeError:
        return None


def keep_compiled_code(folder: Path) -> None:
    """Let numba keep the functions that it compiles in `folder`, where it cannot keep them beside the installed code.

    Call it before numba is imported: where the user's home cannot be written either, the import would fail. `folder`
    must be in a folder that only the user can write, because numba runs what it finds there.
    """
    images = Path(trex.__file__).parent / "images"
    beside = images / "__pycache__"
    if not os.access(beside if beside.exists() else images, os.W_OK):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(folder))


def get(name: str, default: str = "") -> str:
    """One variable's value."""
    return os.environ.get(name, default)


def variables() -> dict[str, str]:
    """All variables."""
    return dict(os.environ)


def remove(names: Iterable[str]) -> None:
    """Drop variables from this process."""
    for name in names:
        os.environ.pop(name, None)


def update(values: Mapping[str, str]) -> None:
    """Set variables for this process and the programs it starts."""
    os.environ.update(values)
