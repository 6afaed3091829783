"""What hubconf.py offers to `torch.hub`, importable from an installation too; see docs/zoo.md."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trex.model.encoder import Encoder


def load_encoder(weights: str | Path | None = None, encoder: str = "resnet50") -> Encoder:
    """An encoder in eval mode: normalized images (N, 3, H, W) to features (N, feature_dim), 2048 for a ResNet-50.

    Args:
        weights: a local file: one of `trex export`, a released one (`trex.pth`, `trexstar_checkpoint_full.pth`, …), or
            another toolkit's. None: initial weights, with a warning; there are no weights to download for this entry.
        encoder: its architecture: a ResNet or ViT of torchvision, or `timm/` and a name of timm if that is installed.

    The module says what it expects and gives: `feature_dim`, `image_size` (None: any), `mean`, `std`.

    Raises:
        UserError: if the file does not hold exactly that encoder's weights, every key of it.
    """
    from trex.model.encoder import build_encoder
    from trex.model.weights import read_encoder

    made = build_encoder(encoder)
    if weights is None:
        warnings.warn("no weights were named: this encoder is untrained (weights='encoder.pth')", stacklevel=2)
    else:
        made.load_state_dict(read_encoder(Path(weights).expanduser(), encoder))
    return made.eval()
