"""What will make the features of a run, as far as its files alone say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trex.config.schema import Config
from trex.errors import UserError
from trex.files import sha256
from trex.model import widths
from trex.records.feature_provenance import FeatureProvenance
from trex.records.manifest import newest_manifest
from trex.records.run_dir import RunDir

PIXELS = "raw pixels"
DIGITS = 16  #: of a SHA-256, enough to tell files apart


@dataclass(frozen=True)
class Origin:
    """The part of a feature file's provenance that is known before images and weights are read."""

    weights: str
    transform: str
    dtype: str

    def differences(self, found: FeatureProvenance) -> list[str]:
        """What makes found features different ones, one line per field: this one's value and theirs."""
        wanted = {"weights": self.weights, "transform": self.transform, "dtype": self.dtype}
        pairs = [(key, value, getattr(found, key)) for key, value in wanted.items()]
        return [f"{key}: {mine} and {theirs}" for key, mine, theirs in pairs if mine != theirs]


def origin(run: RunDir, config: Config, read_states: bool = False) -> Origin:
    """What would make the features of a run now. With `read_states` the newest checkpoint is one that was read and
    found whole.

    Raises:
        UserError: if the weights file cannot be read.
    """
    return Origin(_weights(run, config, read_states), transform(config), config.extract.dtype)


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


def feature_dim(config: Config) -> int:
    """How many numbers a feature of this config will have; see `trex.model.widths.feature_dim`.

    Raises:
        UserError: if there is no such encoder.
    """
    return pixels_dim(config) if config.extract.weights == "pixels" else widths.feature_dim(config.model.encoder)


def pixels_dim(config: Config) -> int:
    """Numbers of a feature that is the cropped pixels themselves."""
    return 3 * config.extract.crop**2


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
