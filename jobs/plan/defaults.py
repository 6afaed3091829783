"""What a user or a site sets once for all recipes, so that no recipe needs a line about the place where it runs.

    ~/.config/trex/config.yaml      or $XDG_CONFIG_HOME/trex/config.yaml: the user's
    /etc/trex/config.yaml           the site's, for what the user does not set

A recipe, a cluster file, an option of the command and a variable of Slurm come before both.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path

from jobs import environment
from jobs.plan.cluster import WORD, Cluster
from jobs.plan.lookup import DEFAULTS
from trex.config import Config, load
from trex.config.loader import setting

SITE = Path("/etc/trex/config.yaml")


@dataclass(frozen=True)
class Defaults:
    """The contents of such a file."""

    runs: str | None = setting(None, "folder of all runs, for recipes that do not set runs", path=True)
    data_root: str | None = setting(
        None, "folder of the datasets, for recipes without data.root and cluster files without data_root", path=True
    )
    cluster: str | None = setting(None, "the cluster file to use if a command names none")
    account: str | None = setting(
        None, "account to charge, where neither the cluster file nor SBATCH_ACCOUNT names one", pattern=WORD
    )


def defaults() -> Defaults:
    """Read the files.

    Raises:
        ConfigError: with the file and line of each mistake in them.
    """
    home = environment.config_home()
    places = [SITE, *([home / "trex" / DEFAULTS] if home is not None else [])]
    found = [load(path, Defaults) for path in places if os.access(path, os.F_OK)]
    return Defaults(**{
        field.name: next((value for one in reversed(found) if (value := getattr(one, field.name))), None)
        for field in fields(Defaults)
    })  # fmt: skip


def with_runs(config: Config) -> Config:
    """Return the recipe with the default folder of runs, unless it sets its own."""
    runs = defaults().runs
    return replace(config, runs=runs) if runs and config.runs == Config().runs else config


def with_data(cluster: Cluster) -> Cluster:
    """Return the cluster file with the default folder of datasets, unless it sets its own."""
    return cluster if cluster.data_root is not None else replace(cluster, data_root=defaults().data_root)
