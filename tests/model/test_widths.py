"""Feature dimensions of encoders, known without building the encoders."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from trex.errors import UserError
from trex.model.encoder import build_encoder_on_meta, encoder_names
from trex.model.sizes import EncoderSize
from trex.model.widths import encoder_size, feature_dim


@pytest.mark.parametrize("name", encoder_names())
def test_size_in_the_table_is_that_of_the_encoder(name: str) -> None:
    encoder = build_encoder_on_meta(name)
    assert encoder_size(name) == EncoderSize(
        encoder.feature_dim,
        sum(one.numel() for one in encoder.parameters()),
        sum(one.nbytes for one in encoder.buffers()),
    )
    assert {one.dtype for one in encoder.parameters()} == {torch.float32}


def test_widths_of_all_torchvision_encoders_are_known_without_importing_torch() -> None:
    code = (
        f"import sys; from trex.model.widths import feature_dim; [feature_dim(name) for name in {encoder_names()}]\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_width_of_a_timm_model_comes_from_the_model() -> None:
    assert feature_dim("timm/resnetv2_50x3_bit") == 6144
    assert feature_dim("timm/vit_tiny_patch16_224") == 192


def test_error_for_an_unknown_encoder_suggests_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'resnet50'"):
        feature_dim("resnet5O")
