"""The preprocessing that a config asks for (`extract.preprocess`): that of the paper, or that of the weights.

Submitting a job needs it and must not import torch, so torchvision and timm are imported only if the numbers depend on
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trex.config.schema import Config
from trex.errors import UserError
from trex.files import sha256
from trex.images.preprocessing import INTERPOLATIONS, MEAN, STD, Geometry, Preprocessing
from trex.model.timm_names import TIMM, pretrained_cfg

#: Side of the paper's images, pixels.
PUBLISHED_SIZE = 224
#: What timm assumes if a model says nothing, as in `timm.data.resolve_data_config`.
_TIMM_SHARE, _TIMM_MODE, _TIMM_INTERPOLATION = 0.875, "center", "bicubic"
_INSTEAD = "set extract.preprocess=published"


def preprocessing(config: Config) -> Preprocessing:
    """The preprocessing of the images whose features are extracted with this config.

    `extract.crop` and `extract.resize` replace single sizes: a crop without a resize keeps the ratio of the two.

    Raises:
        UserError: if the encoder does not exist; if `extract.preprocess` is `model` and it is not known what the
            weights were made for, or not supported; or if the crop is larger than the resized image.
    """
    settings, name = config.extract, config.model.encoder
    mean, std = MEAN, STD
    own = Geometry(PUBLISHED_SIZE, PUBLISHED_SIZE)
    if settings.weights == "pixels":
        mean, std = (0.0,) * 3, (1.0,) * 3
    elif name.startswith(TIMM):
        cfg = pretrained_cfg(name)
        mean, std = tuple(cfg["mean"]), tuple(cfg["std"])
        if settings.preprocess == "model":
            own = _timm_geometry(name, cfg)
    elif settings.preprocess == "model":
        own = _torchvision_geometry(name, settings.weights)
    crop = settings.crop or own.crop
    resize = settings.resize or crop * own.resize // own.crop
    if crop > resize:
        raise UserError(f"extract.crop is {crop}: expected at most extract.resize, {resize}")
    geometry = Geometry(resize, crop, own.interpolation, own.squash)
    choice = settings.preprocess if geometry == own else f"{settings.preprocess}, other sizes"
    return Preprocessing(choice, geometry, mean, std)


def _timm_geometry(name: str, cfg: Mapping[str, Any]) -> Geometry:
    """Resize and crop as timm's own validation does them (`use_test_size`)."""
    size = cfg.get("test_input_size") or cfg["input_size"]
    share = cfg.get("test_crop_pct") or cfg.get("crop_pct") or _TIMM_SHARE
    mode: str = cfg.get("crop_mode") or _TIMM_MODE
    interpolation: Any = cfg.get("interpolation") or _TIMM_INTERPOLATION
    crop, resize = int(size[-1]), math.floor(size[-1] / share)
    problem = ""
    if len(set(size[1:])) > 1 or size[0] != 3:
        problem = f"images of {' x '.join(map(str, size))}; only square RGB images are supported"
    elif mode not in ("center", "squash"):
        problem = f"crop_mode {mode!r}; only 'center' and 'squash' are supported"
    elif interpolation not in INTERPOLATIONS:
        problem = f"interpolation {interpolation!r}; only {' and '.join(INTERPOLATIONS)} are supported"
    elif crop > resize:
        problem = f"a crop of {crop} from images resized to {resize}, with black borders; these are not supported"
    if problem:
        raise UserError(f"extract.preprocess is model: timm states for {name.removeprefix(TIMM)} {problem}: {_INSTEAD}")
    return Geometry(resize, crop, interpolation, mode == "squash")


def _torchvision_geometry(name: str, weights: str) -> Geometry:
    """Resize and crop of one of torchvision's weights files, which their names identify by the start of the SHA-256."""
    from torchvision import models

    known = {}
    if name in models.list_models():
        for one in models.get_model_weights(name):
            known[Path(one.url).stem.rpartition("-")[2]] = one.transforms()
    digest = sha256(Path(weights)) if Path(weights).is_file() else ""
    for start, transform in known.items():
        if digest.startswith(start):
            (resize,), (crop,) = transform.resize_size, transform.crop_size
            return Geometry(resize, crop, transform.interpolation.value)
    raise UserError(
        f"extract.preprocess is model: it is known for timm's models and for the files that torchvision publishes for "
        f"{name} (SHA-256 {', '.join(f'{start}…' for start in known) or 'none'}), but extract.weights is {weights}: "
        f"{_INSTEAD}, and extract.resize and extract.crop if the weights were made for other sizes"
    )
