"""What makes the features of a run, told from its files alone."""

from __future__ import annotations

from pathlib import Path

from trex.config.schema import Config
from trex.errors import UserError
from trex.files import sha256
from trex.records.manifest import newest_manifest
from trex.records.run_dir import RunDir

PIXELS = "raw pixels"
DIGITS = 16  #: of a SHA-256, enough to tell files apart


def origin(run: RunDir, config: Config, read_states: bool = False) -> dict[str, str]:
    """The attributes of a feature file that say what makes it: `weights`, `transform`, `dtype`. With `read_states` the
    newest checkpoint is one that was read and found whole.

    Raises:
        UserError: if the weights file cannot be read.
    """
    dtype = config.extract.dtype
    return {"weights": _weights(run, config, read_states), "transform": transform(config), "dtype": dtype}


def _weights(run: RunDir, config: Config, read_states: bool) -> str:
    weights = config.extract.weights
    if weights == "pixels":
        return PIXELS
    if weights == "untrained":
        return untrained(config)
    if weights == "trained":
        newest = newest_manifest(run.checkpoints, read_states)
        return "no checkpoint" if newest is None else checkpoint(newest[0], newest[1].sha256)
    try:
        return weights_file(Path(weights))
    except OSError as error:
        raise UserError(f"extract.weights: cannot read {weights} ({error})") from error


def untrained(config: Config) -> str:
    """Words for the encoder before its first step."""
    return f"untrained {config.model.encoder}, seed {config.train.seed}"


def checkpoint(folder: Path, digest: str) -> str:
    """Words for the encoder in one of the run's checkpoints, whose state has this SHA-256."""
    return f"{folder.name}, SHA-256 {digest[:DIGITS]}"


def weights_file(path: Path) -> str:
    """Words for a weights file: its name, and its content's SHA-256."""
    return f"{path.name}, SHA-256 {sha256(path)[:DIGITS]}"


def transform(config: Config) -> str:
    """Words for what an image goes through."""
    settings = config.extract
    return f"resize {settings.resize} bicubic, center crop {settings.crop}, {config.model.encoder}"
