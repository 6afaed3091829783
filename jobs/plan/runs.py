"""Finds the run folder and the resolved config that a user means by a config file, a run folder or a name."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from jobs.plan import known_runs, lookup
from jobs.plan.defaults import with_runs
from jobs.plan.rights import owner_of, protect
from trex.config import Config, load, to_yaml
from trex.config.compare import differences
from trex.config.loader import to_dict
from trex.config.schema import WEIGHTS_OF_RUN
from trex.errors import ResumeRefused, UserError
from trex.files import write_text
from trex.records.run_dir import RunDir
from trex.wording import did_you_mean

#: How many runs an error message lists.
_RUNS_TO_NAME = 20


def open_config(target: str, overrides: Sequence[str] = ()) -> tuple[RunDir, Config]:
    """Read the config of a command that does work. `target` is a config file or a run folder, by path or by name.

    A name that both a recipe (`jobs.plan.lookup`) and a run have means the recipe, even one of the toolkit. If the run
    has another config, `save_config` reports the difference instead of using the old config silently. The path of a run
    folder always means that run.

    Creates no files. Paths of weights files become absolute, because a run may be continued from another folder.

    Raises:
        UserError: if neither exists; ConfigError: if the config is wrong.
    """
    return _open(itertools.chain(lookup.places(target, lookup.RECIPES), known_runs.places(target)), target, overrides)


def open_run(target: str) -> tuple[RunDir, Config]:
    """Read the config of a command about a run. Like `open_config`, but a name means a run before a recipe."""
    path, *recipes = lookup.places(target, lookup.RECIPES)
    return _open(itertools.chain([path], known_runs.places(target), recipes), target, ())


def word_for(run: RunDir) -> str:
    """Return the word that means a run in a command typed in this folder: its name, or else its path."""
    with contextlib.suppress(UserError):
        found = next((place for place in known_runs.places(run.name) if (place / "config.yaml").is_file()), None)
        if found is not None and found.resolve() == run.root.resolve() and not Path(run.name).exists():
            return shlex.quote(run.name)
    return shlex.quote(str(run.root))


def require_readable_jobs(run: RunDir) -> None:
    """Raise UserError if the job files of a run cannot be read, as those of another user."""
    _require_readable(run.jobs)


def _require_readable(folder: Path) -> None:
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"only {owner_of(folder)} can read {folder.absolute()}: it is private")


def _open(places: Iterable[Path], target: str, overrides: Sequence[str]) -> tuple[RunDir, Config]:
    for place in places:
        _require_readable(place)
        if (place / "config.yaml").is_file():
            config = _with_absolute_files(load(place / "config.yaml", Config, overrides))
            folder = Path(os.path.normpath(place.absolute()))
            renamed = {"name", "runs"} & {override.partition("=")[0] for override in overrides}
            if "runs" in renamed:
                return RunDir.of(config), config
            return RunDir(folder.with_name(config.name) if renamed else folder), config
        if place.is_file():
            if place.is_absolute() and place != lookup.path_of(target):  # not in the working folder: print its path
                sys.stderr.write(f"trex: using the recipe {place}\n")
            config = with_runs(_with_absolute_files(load(place, Config, overrides)))
            return RunDir.of(config), config
    raise UserError(_nothing_named(target))


def _with_absolute_files(config: Config) -> Config:
    train, extract = config.train, config.extract
    if train.start is not None:
        train = replace(train, start=_absolute(train.start))
    if train.key_map is not None:
        train = replace(train, key_map=_absolute(train.key_map))
    if extract.weights not in WEIGHTS_OF_RUN:
        extract = replace(extract, weights=_absolute(extract.weights))
    if extract.key_map is not None:
        extract = replace(extract, key_map=_absolute(extract.key_map))
    return replace(config, train=train, extract=extract)


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def save_config(run: RunDir, config: Config) -> None:
    """Write the resolved config into the run folder, in which from now on only its owner can write.

    Raises:
        UserError: if other users can change what its jobs execute (jobs/plan/rights.py).
        ResumeRefused: if the folder holds another run, i.e. a setting that affects the result differs.
    """
    if run.config.exists():
        changes = differences(to_dict(load(run.config, Config)), config)
        if changes:
            listed = "\n".join(f"  {change}" for change in changes)
            raise ResumeRefused(
                f"{run.root} holds a run with another config:\n{listed}\n"
                f"To continue that run, set these back, or give its folder instead of the config. To start a new run, "
                f"give it another name: name={run.name}_2"
            )
    protect(run)
    write_text(run.config, to_yaml(config))
    known_runs.remember(run)


def _nothing_named(target: str) -> str:
    recipes = lookup.known_names(lookup.RECIPES)
    below = {path.parent.name for folder in known_runs.folders() for path in folder.glob("*/config.yaml")}
    runs = sorted({*below, *(path.name for path in known_runs.remembered())})
    hint = did_you_mean(Path(target).stem, [*recipes, *runs])
    lines = [f"{target}: expected a config file or a run folder, by path or by name, but found neither{hint}"]
    lines.append(f"  recipes: {', '.join(recipes)}")
    if runs:
        more = ", … (`trex status` lists all)" if len(runs) > _RUNS_TO_NAME else ""
        lines.append(f"  runs: {', '.join(runs[:_RUNS_TO_NAME])}{more}")
    return "\n".join(lines)
