"""Where recipes and cluster files are found by name: in the working folder, the user's own, those of the toolkit.

    ./configs                 NAME.yaml is a recipe, clusters/NAME.yaml a cluster file; the same in each folder
    ~/.config/trex            or $XDG_CONFIG_HOME/trex
    jobs/configs              comes with the toolkit; in a checkout it is a link to configs/

The first that has the name counts. A path always means the file at that path.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from jobs import environment

#: Folder of each kind of file below a folder of configs.
Kind = Literal[".", "clusters"]
RECIPES: Kind = "."
CLUSTERS: Kind = "clusters"

HERE = Path("configs")
TOOLKIT = Path(__file__).resolve().parents[1] / "configs"


def folders(kind: Kind) -> list[Path]:
    """Where files of that kind are looked for by name, in this order; some may not exist."""
    home = environment.config_home()
    own = [] if home is None else [home / "trex"]
    return [folder / kind for folder in (HERE, *own, TOOLKIT)]


def places(target: str, kind: Kind) -> Iterator[Path]:
    """The paths that `target`, a path or a name, may stand for, in the order in which they count."""
    yield Path(target).expanduser()
    for folder in folders(kind):
        yield folder / f"{target}.yaml"


def known_names(kind: Kind) -> list[str]:
    """Every name of that kind that is found somewhere, sorted."""
    return sorted({path.stem for folder in folders(kind) for path in folder.glob("*.yaml")})
