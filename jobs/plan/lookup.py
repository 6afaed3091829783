"""Finds recipes and cluster files by name: in the working folder, the user's config folder and the toolkit.

    ./configs                 NAME.yaml is a recipe, clusters/NAME.yaml a cluster file; the same in each folder
    ~/.config/trex            or $XDG_CONFIG_HOME/trex
    jobs/configs              part of the toolkit; in a checkout it is a link to configs/

The first file with that name is used. A path always means the file at that path.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from jobs import environment
from trex.config.paths import expanded
from trex.errors import UserError

#: The subfolder of each kind of file.
Kind = Literal[".", "clusters"]
RECIPES: Kind = "."
CLUSTERS: Kind = "clusters"

HERE = Path("configs")
DEFAULTS = "config.yaml"  #: not a recipe, but what a user sets for all of them (jobs/plan/defaults.py)
TOOLKIT = Path(__file__).resolve().parents[1] / "configs"


def folders(kind: Kind) -> list[Path]:
    """Return the folders to search for files of that kind, in order. Some may not exist."""
    home = environment.config_home()
    own = [] if home is None else [home / "trex"]
    return [folder / kind for folder in (HERE, *own, TOOLKIT)]


def path_of(text: str) -> Path:
    """Return the path that a user gave as an option, as in settings (`trex.config.paths`). Raises UserError."""
    try:
        return Path(expanded(text))
    except ValueError as error:
        raise UserError(f"the path {error}") from error


def places(target: str, kind: Kind) -> Iterator[Path]:
    """Yield the paths that `target`, a path or a name, can mean, in the order of the search."""
    yield path_of(target)
    for folder in folders(kind):
        yield folder / f"{target}.yaml"


def known_names(kind: Kind) -> list[str]:
    """Return the names of all files of that kind, sorted."""
    found = {path for folder in folders(kind) for path in folder.glob("*.yaml")}
    return sorted({path.stem for path in found if path.name != DEFAULTS})
