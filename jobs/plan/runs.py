"""From what a person names, a config file or a run, to the run folder and its resolved config."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trex.config import Config, load, to_yaml
from trex.config.compare import differences
from trex.config.loader import to_dict
from trex.config.schema import WEIGHTS_OF_RUN
from trex.errors import ResumeRefused, UserError
from trex.files import write_text
from trex.records.run_dir import RunDir
from trex.suggest import did_you_mean


def open_config(target: str, overrides: Sequence[str] = ()) -> tuple[RunDir, Config]:
    """Read what a command that does work is given: a config file or a run folder, by path or by name.

    A name is a file of configs/ before it is a run: a config that was edited since the run began must not be passed
    over in silence. Creates nothing. Weights files are named by absolute paths then: a run may be continued from
    another folder.

    Raises:
        UserError: if there is neither; ConfigError: if the config is wrong.
    """
    path = Path(target).expanduser()
    return _open((path, Path("configs") / f"{target}.yaml", Path("runs") / target), target, overrides)


def open_run(target: str) -> tuple[RunDir, Config]:
    """Read what a command about a run is given: the run's folder or name; else as `open_config` does."""
    path = Path(target).expanduser()
    return _open((path, Path("runs") / target, Path("configs") / f"{target}.yaml"), target, ())


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
                f"Set these back to continue that run, or give this one a name of its own: name={run.name}_2"
            )
    write_text(run.config, to_yaml(config))


def _nothing_named(target: str) -> str:
    known = sorted(path.stem for path in Path("configs").glob("*.yaml"))
    hint = did_you_mean(Path(target).stem, known)
    return f"{target}: expected a config file or a run folder, found neither{hint}"
