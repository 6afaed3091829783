"""From what a person names, a config file or a run, to the run folder and its resolved config."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobs.plan import lookup
from trex.config import Config, load, to_yaml
from trex.config.compare import differences
from trex.config.loader import to_dict
from trex.config.schema import WEIGHTS_OF_RUN
from trex.errors import ResumeRefused, UserError
from trex.files import write_text
from trex.records.run_dir import RunDir
from trex.suggest import did_you_mean

#: Where runs are found by name.
_RUNS = Path(Config().runs)
#: Runs that an error message lists.
_RUNS_TO_NAME = 20


def open_config(target: str, overrides: Sequence[str] = ()) -> tuple[RunDir, Config]:
    """Read what a command that does work is given: a config file or a run folder, by path or by name.

    A name means a recipe (`jobs.plan.lookup`) before it means a run, also a recipe that comes with the toolkit: the
    config of an earlier run of that name may differ, and then `save_config` says how instead of using it silently. A
    run folder given by its path always means that run.

    Creates nothing. Weights files are named by absolute paths then: a run may be continued from another folder.

    Raises:
        UserError: if there is neither; ConfigError: if the config is wrong.
    """
    return _open((*lookup.places(target, lookup.RECIPES), _RUNS / target), target, overrides)


def open_run(target: str) -> tuple[RunDir, Config]:
    """Read what a command about a run is given: the run's folder or name; else as `open_config` does."""
    path, *recipes = lookup.places(target, lookup.RECIPES)
    return _open((path, _RUNS / target, *recipes), target, ())


def _open(places: Sequence[Path], target: str, overrides: Sequence[str]) -> tuple[RunDir, Config]:
    for place in places:
        if (place / "config.yaml").is_file():
            config = _with_absolute_files(load(place / "config.yaml", Config, overrides))
            folder = Path(os.path.normpath(place.absolute()))
            renamed = {"name", "runs"} & {override.partition("=")[0] for override in overrides}
            if "runs" in renamed:
                return RunDir.of(config), config
            return RunDir(folder.with_name(config.name) if renamed else folder), config
        if place.is_file():
            if place.is_absolute() and place != Path(target).expanduser():  # not of this folder: say which one it is
                sys.stderr.write(f"trex: {target} is the recipe {place}\n")
            config = _with_absolute_files(load(place, Config, overrides))
            return RunDir.of(config), config
    raise UserError(_nothing_named(target))


def _with_absolute_files(config: Config) -> Config:
    train, extract = config.train, config.extract
    if train.start is not None:
        train = replace(train, start=_absolute(train.start))
    if extract.weights not in WEIGHTS_OF_RUN:
        extract = replace(extract, weights=_absolute(extract.weights))
    return replace(config, train=train, extract=extract)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def save_config(run: RunDir, config: Config) -> None:
    """Write the resolved config into the run folder.

    Raises:
        ResumeRefused: if the folder holds another run, i.e. a setting differs that decides the result.
    """
    if run.config.exists():
        changes = differences(to_dict(load(run.config, Config)), config)
        if changes:
            listed = "\n".join(f"  {change}" for change in changes)
            raise ResumeRefused(
                f"{run.root} holds a run with another config:\n{listed}\n"
                f"Set these back to continue that run, or name its folder instead of the config to continue it with "
                f"its own settings, or give this one a name of its own: name={run.name}_2"
            )
    write_text(run.config, to_yaml(config))


def _nothing_named(target: str) -> str:
    recipes = lookup.known_names(lookup.RECIPES)
    runs = sorted(path.parent.name for path in _RUNS.glob("*/config.yaml"))
    hint = did_you_mean(Path(target).stem, [*recipes, *runs])
    lines = [f"{target}: expected a config file or a run folder, by path or by name, found neither{hint}"]
    lines.append(f"  recipes: {', '.join(recipes)}")
    if runs:
        more = ", … (`trex status` lists all)" if len(runs) > _RUNS_TO_NAME else ""
        lines.append(f"  runs: {', '.join(runs[:_RUNS_TO_NAME])}{more}")
    return "\n".join(lines)
