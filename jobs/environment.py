"""The environment variables of the process. Only this module reads or writes them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import trex


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def chosen_gpus() -> tuple[str, ...] | None:
    """Return the GPUs that CUDA_VISIBLE_DEVICES lists, by index or UUID, as CUDA reads it; None if it is not set."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    names = (name.strip() for name in value.split(","))
    return tuple(itertools.takewhile(lambda name: name and not name.startswith("-"), names))


def config_home() -> Path | None:
    """Return the user's config folder, XDG_CONFIG_HOME or ~/.config; None for a user without a home folder."""
    return _home("XDG_CONFIG_HOME", ".config")


def state_home() -> Path | None:
    """Return the user's folder for what programs remember, XDG_STATE_HOME or ~/.local/state; None without a home."""
    return _home("XDG_STATE_HOME", ".local/state")


def _home(variable: str, below_home: str) -> Path | None:
    chosen = Path(os.environ.get(variable, ""))
    if chosen.is_absolute():  # the XDG specification says to ignore a relative path
        return chosen
    try:
        return Path.home() / below_home
    except RuntimeError:
        return None


def keep_compiled_code(folder: Path) -> None:
    """Let numba keep compiled functions in `folder` if it can write neither the user's cache nor the installed code.

    Call this before numba is imported. `folder` must be inside a folder that only the user can write, because numba
    runs the code that it finds there.
    """
    images, home = Path(trex.__file__).parent / "images", _home("XDG_CACHE_HOME", ".cache")
    for place in (*([home] if home else []), images / "__pycache__"):
        there = next(path for path in (place, *place.parents) if path.exists())
        if os.access(there, os.W_OK | os.X_OK):
            return
    os.environ.setdefault("NUMBA_CACHE_DIR", str(folder))


def signal_lead() -> float | None:
    """Return the seconds from the signal before the job's time limit to the limit, if the batch script says them."""
    value = os.environ.get("TREX_SIGNAL_LEAD", "")
    return float(value) if value.isdecimal() else None


def get(name: str, default: str = "") -> str:
    """Return the value of a variable."""
    return os.environ.get(name, default)


def variables() -> dict[str, str]:
    """Return a copy of all variables."""
    return dict(os.environ)


def remove(names: Iterable[str]) -> None:
    """Remove variables from this process."""
    for name in names:
        os.environ.pop(name, None)


def update(values: Mapping[str, str]) -> None:
    """Set variables for this process and the programs it starts."""
    os.environ.update(values)
