"""The function from images to features: a run's encoder, an untrained one, that of a weights file, or the pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trex.config.schema import Config
from trex.distributed import Ranks
from trex.errors import UserError
from trex.features import origin
from trex.images.normalize import normalize
from trex.images.preprocessing import Preprocessing
from trex.model.encoder import Encoder, build_encoder, initial_encoder
from trex.model.preprocessing import preprocessing
from trex.model.timm_names import TIMM
from trex.model.weights import read_encoder
from trex.records.manifest import checkpoint_name
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoints

_AUTOCAST = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Source:
    """A function from uint8 (B, 3, S, S) images on the device to float32 (B, dim) features, and its origin."""

    features: Callable[[Tensor], Tensor]
    dim: int
    preprocessing: Preprocessing  #: of the images; `features` normalizes, all else happens before it
    weights: str  #: where the weights come from, for people
    digest: str  #: SHA-256 of names, shapes and bytes of the encoder's weights


def make_source(run: RunDir, config: Config, ranks: Ranks) -> Source:
    """The source that `config.extract.weights` names. For `trained`: the run's newest checkpoint, or its milestone's.

    Raises:
        UserError: if the run has no checkpoint yet, the weights file or the crop does not fit the encoder of the
            config, or the preprocessing is not known.
    """
    weights, seen = config.extract.weights, preprocessing(config)
    if weights == "pixels":
        dim = origin.pixels_dim(config)
        return Source(lambda images: images.flatten(1).float() / 255, dim, seen, origin.PIXELS, "pixels")
    if weights == "trained":
        found = ranks.broadcast(_checkpoint(run) if ranks.is_main else None)
        if found is None:
            raise origin.no_checkpoint(run)
        checkpoint = Checkpoints(run.checkpoints).at(Path(found))
        saved = checkpoint.load()["model"]
        state = {key.removeprefix("encoder."): value for key, value in saved.items() if key.startswith("encoder.")}
        return _encoder_source(config, state, origin.describe_checkpoint(checkpoint.path, checkpoint.sha256), ranks)
    if weights == "untrained":
        start = initial_encoder(config.model.encoder, config.train.seed).state_dict()
        return _encoder_source(config, start, origin.describe_untrained(config), ranks)
    key_map = Path(config.extract.key_map) if config.extract.key_map else None
    state = read_encoder(Path(weights), config.model.encoder, key_map)
    return _encoder_source(config, state, origin.describe_weights_file(config), ranks)


def require_crop(encoder: Encoder, config: Config) -> None:
    """Raise UserError if the encoder takes images of one size only and the config's crop has another size."""
    size, crop = encoder.image_size, preprocessing(config).geometry.crop
    if size in (None, crop):
        return
    name, settings = config.model.encoder, config.extract
    ways = [f"extract.crop={size}" + (f" and extract.resize={size}" if (settings.resize or size) < size else "")]
    if name.startswith(TIMM) and settings.preprocess != "model":
        ways.append("extract.preprocess=model for what its weights were made for")
    chosen = f"extract.preprocess={settings.preprocess}" + (f" and extract.crop={crop}" if settings.crop else "")
    raise UserError(
        f"{name} takes images of {size} x {size} pixels only, but {chosen} gives {crop} x {crop}: "
        f"set {', or '.join(ways)}"
    )


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, shapes and float32 bytes of weights, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.endswith("num_batches_tracked"):
            continue  # features do not depend on this counter, and some files lack it
        value = state[name].detach().cpu().contiguous().float()
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _checkpoint(run: RunDir) -> str | None:
    if run.milestone is not None:
        return str(run.checkpoints / checkpoint_name(run.milestone, 0))
    checkpoint = Checkpoints(run.checkpoints).newest()
    return None if checkpoint is None else str(checkpoint.path)


def _encoder_source(config: Config, state: Mapping[str, Tensor], weights: str, ranks: Ranks) -> Source:
    encoder = build_encoder(config.model.encoder)
    require_crop(encoder, config)
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise UserError(
                f"{weights}: the weights {name} are not finite (NaN or infinite), so no feature would be: "
                "set extract.weights to a file or a run whose training did not diverge"
            )
    encoder.load_state_dict(dict(state))
    encoder = encoder.to(ranks.device).eval()
    seen = preprocessing(config)

    amp = _AUTOCAST[config.extract.precision]

    def features(images: Tensor) -> Tensor:
        with torch.autocast(ranks.device.type, dtype=amp, enabled=amp is not None):
            made: Tensor = encoder(normalize(images, seen.mean, seen.std))
        return made.float()

    return Source(torch.inference_mode()(features), encoder.feature_dim, seen, weights, state_digest(state))
