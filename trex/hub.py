"""The entry point for `torch.hub` (hubconf.py). It can also be imported from an installed package; see docs/zoo.md."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trex.model.encoder import Encoder


def load_encoder(
    weights: str | Path | None = None, encoder: str = "resnet50", key_map: str | Path | None = None
) -> Encoder:
    """Load an encoder in eval mode. It maps normalized images (N, 3, H, W) to features (N, feature_dim).

    Args:
        weights: local file with the weights: from `trex export`, a released one (`trex.pth`,
            `trexstar_checkpoint_full.pth`, …), or another toolkit's. None: initial weights, with a warning; no weights
            are downloaded.
        encoder: architecture: a ResNet or ViT of torchvision, or `timm/` and a name of timm if timm is installed.
        key_map: YAML or JSON file that maps the names in `weights` to the encoder's, if they differ (docs/zoo.md).

    Returns:
        The encoder. Its attributes describe input and output: `feature_dim` (2048 for a ResNet-50), `image_size` (None:
        any), `mean`, `std`.

    Raises:
        UserError: if the keys in the file are not exactly those of the encoder.
    """
    from trex.model.encoder import build_encoder
    from trex.model.weights import read_encoder

    made = build_encoder(encoder)
    if weights is None:
        warnings.warn(
            "no weights were given, so this encoder is untrained; to load weights: weights='encoder.pth'", stacklevel=2
        )
    else:
        names = None if key_map is None else Path(key_map).expanduser()
        made.load_state_dict(read_encoder(Path(weights).expanduser(), encoder, names))
    return made.eval()
