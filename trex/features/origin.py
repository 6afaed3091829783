"""The weights, transform and dtype of a run's features, known before any image is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trex.config.schema import Config
from trex.errors import UserError
from trex.files import sha256
from trex.model import widths
from trex.model.preprocessing import preprocessing
from trex.records.feature_provenance import FeatureProvenance
from trex.records.manifest import manifest_at, newest_manifest
from trex.records.run_dir import RunDir
from trex.wording import counted

PIXELS = "raw pixels"
DIGITS = 16  #: hexadecimal digits of a SHA-256 that are shown, enough to distinguish files


@dataclass(frozen=True)
class Origin:
    """The part of a feature file's provenance that is known before any image is read."""

    weights: str  #: where the weights come from, for people
    transform: str  #: preprocessing and encoder, for people
    dtype: str
    may_skip: bool  #: whether broken images may be left out

    def differences(self, found: FeatureProvenance) -> list[str]:
        """One line per field that differs: the value here and the value in `found`."""
        wanted = {"weights": self.weights, "transform": self.transform, "dtype": self.dtype}
        pairs = [(key, value, getattr(found, key)) for key, value in wanted.items()]
        lines = [f"{key}: {mine} and {theirs}" for key, mine, theirs in pairs if mine != theirs]
        return [*lines, *unwanted_skips(found, self.may_skip)]


def origin(run: RunDir, config: Config, read_states: bool = False) -> Origin:
    """The origin that the features of a run would have now.

    Args:
        run: the run.
        config: its config.
        read_states: whether a checkpoint counts only if its content has the SHA-256 in its manifest; otherwise only
            its size is checked.

    Raises:
        UserError: if the weights file cannot be read.
    """
    weights = _weights(run, config, read_states)
    return Origin(weights, describe_transform(config), config.extract.dtype, config.data.broken_images == "skip")


def unwanted_skips(found: FeatureProvenance, may_skip: bool) -> list[str]:
    """A line that says that features lack broken images, if they do and `may_skip` is False."""
    if may_skip or not found.skipped:
        return []
    return [f"data.broken_images: refuse and {counted(found.skipped, 'skipped image')}"]


def _weights(run: RunDir, config: Config, read_states: bool) -> str:
    weights = config.extract.weights
    if weights == "pixels":
        return PIXELS
    if weights == "untrained":
        return describe_untrained(config)
    if weights == "trained":
        if run.milestone is None:
            found = newest_manifest(run.checkpoints, read_states)
        else:
            found = manifest_at(run.checkpoints, run.milestone)
        return "no checkpoint" if found is None else describe_checkpoint(found[0], found[1].sha256)
    try:
        return describe_weights_file(config)
    except OSError as error:
        raise UserError(f"extract.weights: cannot read {error.filename} ({error.strerror})") from error


def no_checkpoint(run: RunDir) -> UserError:
    """The error that a run has no encoder to extract features with."""
    return UserError(
        f"{run.root}: there is no checkpoint to extract features with. Train first: trex train {run.name}. Or "
        f"set extract.weights to untrained, pixels, or the path of a weights file."
    )


def feature_dim(config: Config) -> int:
    """Numbers per feature with this config; see `trex.model.widths.feature_dim`.

    Raises:
        UserError: if the encoder does not exist.
    """
    return pixels_dim(config) if config.extract.weights == "pixels" else widths.feature_dim(config.model.encoder)


def pixels_dim(config: Config) -> int:
    """Numbers per feature if the features are the cropped pixels."""
    return 3 * preprocessing(config).geometry.crop ** 2


def describe_untrained(config: Config) -> str:
    """A text that names the initial weights of the encoder."""
    return f"untrained {config.model.encoder}, seed {config.train.seed}"


def describe_checkpoint(folder: Path, digest: str) -> str:
    """A text that names the checkpoint in `folder`, whose state has this SHA-256."""
    return f"{folder.name}, SHA-256 {digest[:DIGITS]}"


def describe_weights_file(config: Config) -> str:
    """A text that names the weights file of a config and the file that maps its names, with the SHA-256 of each.

    Raises:
        OSError: if one of them cannot be read.
    """
    weights, key_map = describe_file(config.extract.weights), config.extract.key_map
    return weights if key_map is None else f"{weights}; names mapped by {describe_file(key_map)}"


def describe_file(path: str) -> str:
    """A text that names a file, with the SHA-256 of its content. Raises OSError if it cannot be read."""
    return f"{Path(path).name}, SHA-256 {sha256(Path(path))[:DIGITS]}"


def describe_transform(config: Config) -> str:
    """A text that names the preprocessing and the encoder that images go through, and its autocast if it has one.

    Raw pixels go through no encoder.

    Raises:
        UserError: as `preprocessing`.
    """
    seen, precision = str(preprocessing(config)), config.extract.precision
    if config.extract.weights == "pixels":
        return seen
    return f"{seen}, {config.model.encoder}" + (f", {precision} autocast" if precision != "off" else "")
