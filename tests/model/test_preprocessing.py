"""The preprocessing of each encoder: the paper's for all of them, or what the weights were made for."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision import models

from trex.config import Config, load
from trex.errors import UserError
from trex.features.source import require_crop
from trex.images.evaluation import evaluation_image
from trex.images.normalize import normalize
from trex.images.preprocessing import Geometry
from trex.model import preprocessing as module
from trex.model.encoder import build_encoder_on_meta
from trex.model.preprocessing import preprocessing

#: Larger and smaller sizes than 224, the test size, bilinear, and `squash`.
MODELS = (
    "convnext_base.fb_in22k_ft_in1k_384",
    "tf_efficientnet_b4.ns_jft_in1k",
    "inception_v3.tf_in1k",
    "regnety_160.swag_ft_in1k",
    "efficientnet_b3.ra2_in1k",
    "resnet18.tv_in1k",
    "vit_base_patch14_dinov2.lvd142m",
    "tf_efficientnet_lite0.in1k",
)


def config(encoder: str, *settings: str) -> Config:
    return load(None, Config, [f"model.encoder={encoder}", "extract.weights=untrained", *settings])


def timms(name: str) -> dict:
    """timm's own data config of a model, as its validation uses it."""
    with torch.device("meta"):
        return timm.data.resolve_model_data_config(timm.create_model(name, pretrained=False), use_test_size=True)


@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_those_of_timms_own_data_config(name: str) -> None:
    wanted, found = timms(name), preprocessing(config(f"timm/{name}", "extract.preprocess=model"))
    size = wanted["input_size"][-1]
    resize = math.floor(size / wanted["crop_pct"])
    squash = wanted["crop_mode"] == "squash"
    assert found.geometry == Geometry(resize, size, wanted["interpolation"], squash)
    assert (found.mean, found.std) == (tuple(wanted["mean"]), tuple(wanted["std"]))
    assert found.choice == "model"


def test_the_cases_cover_the_test_size_both_interpolations_and_both_crop_modes() -> None:
    found = [timms(name) for name in MODELS]
    assert {one["interpolation"] for one in found} == {"bicubic", "bilinear"}
    assert {one["crop_mode"] for one in found} == {"center", "squash"}
    assert {384, 380, 299, 320, 518} <= {one["input_size"][-1] for one in found}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (97, 640)])
def test_pixels_are_those_of_timms_own_transform(photograph: np.ndarray, name: str, shape: tuple[int, int]) -> None:
    height, width = shape
    image = Image.fromarray(photograph).resize((width, height))
    expected = timm.data.create_transform(**timms(name))(image)
    made = preprocessing(config(f"timm/{name}", "extract.preprocess=model"))
    pixels = torch.from_numpy(evaluation_image(np.asarray(image), made.geometry))
    found = normalize(pixels[None], made.mean, made.std)[0]
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=0, atol=2e-6)


def test_every_name_of_timm_has_timms_numbers_or_is_refused_with_the_reason() -> None:
    names = timm.list_pretrained()
    reasons = {"crop_mode 'border'": 0, "only square RGB images": 0, "black borders": 0}
    for name in names:
        cfg = timm.get_pretrained_cfg(name).to_dict()
        wanted = timm.data.resolve_data_config(pretrained_cfg=cfg, use_test_size=True)
        try:
            found = preprocessing(config(f"timm/{name}", "extract.preprocess=model"))
        except UserError as error:
            (reason,) = (one for one in reasons if one in str(error))
            assert "set extract.preprocess=published" in str(error)
            reasons[reason] += 1
            continue
        size = wanted["input_size"][-1]
        assert found.geometry.crop == size
        assert found.geometry.resize == math.floor(size / wanted["crop_pct"])
        assert (found.geometry.interpolation, found.mean) == (wanted["interpolation"], tuple(wanted["mean"]))
    assert len(names) > 1000
    assert sum(reasons.values()) < 0.02 * len(names), reasons


@pytest.mark.parametrize("name", ["resnet50", "timm/tf_efficientnet_b4", "timm/inception_v3", "vit_b_16"])
def test_published_is_the_papers_preprocessing_for_every_encoder(name: str) -> None:
    assert preprocessing(config(name)).geometry == Geometry(224, 224, "bicubic")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["extract.crop=384"], "published, other sizes: resize 384 bicubic, center crop 384"),
        (["extract.resize=256"], "published, other sizes: resize 256 bicubic, center crop 224"),
        (["extract.resize=224", "extract.crop=224"], "published: resize 224 bicubic, center crop 224"),
        (["extract.preprocess=model"], "model: resize 256 bilinear, center crop 224"),
        (["extract.preprocess=model", "extract.crop=448"], "model, other sizes: resize 512 bilinear, center crop 448"),
        (
            ["extract.preprocess=model", "extract.resize=224"],
            "model, other sizes: resize 224 bilinear, center crop 224",
        ),
    ],
)
def test_sizes_replace_single_numbers_of_the_preprocessing(settings: list[str], expected: str) -> None:
    found = str(preprocessing(config("timm/resnet18.tv_in1k", *settings)))
    assert found == f"{expected}, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"


def test_crop_that_is_larger_than_the_resized_image_is_an_error() -> None:
    with pytest.raises(UserError, match=r"extract\.crop is 224: expected at most extract\.resize, 200"):
        preprocessing(config("resnet50", "extract.resize=200"))


@pytest.mark.parametrize(
    ("name", "size"), [("timm/vit_base_patch16_384.augreg_in21k_ft_in1k", 384), ("timm/vit_small_patch14_dinov2", 518)]
)
def test_encoder_of_one_size_is_refused_with_both_settings_that_fix_it(name: str, size: int) -> None:
    encoder = build_encoder_on_meta(name)
    with pytest.raises(UserError, match=f"{size} x {size} pixels only") as error:
        require_crop(encoder, config(name))
    for fix in (f"extract.crop={size}", "extract.preprocess=model"):
        assert fix in str(error.value)
        require_crop(encoder, config(name, fix))


def test_refusal_names_the_resize_if_it_is_set_too_small() -> None:
    name = "timm/vit_base_patch16_384"
    with pytest.raises(UserError, match=r"extract\.crop=384 and extract\.resize=384"):
        require_crop(build_encoder_on_meta(name), config(name, "extract.resize=256"))


@pytest.mark.parametrize(
    ("name", "weights"),
    [("resnet50", "IMAGENET1K_V1"), ("resnet50", "IMAGENET1K_V2"), ("vit_l_16", "IMAGENET1K_SWAG_LINEAR_V1")],
)
def test_file_of_torchvision_has_its_own_preprocessing(
    name: str, weights: str, photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = models.get_model_weights(name)[weights]
    file = tmp_path / "renamed.pth"
    file.touch()
    start = Path(known.url).stem.rpartition("-")[2]  # torchvision's own check of a download
    monkeypatch.setattr(module, "sha256", lambda path: start + "0" * 56)
    made = preprocessing(config(name, f"extract.weights={file}", "extract.preprocess=model"))
    pixels = torch.from_numpy(evaluation_image(photograph, made.geometry))
    expected = known.transforms()(Image.fromarray(photograph))
    assert torch.allclose(normalize(pixels[None], made.mean, made.std)[0], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("weights", ["untrained", "trained", "mine.pth"])
def test_unknown_weights_have_no_preprocessing_of_their_own(weights: str, tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(b"weights")
    weights = str(tmp_path / weights) if weights.endswith(".pth") else weights
    with pytest.raises(UserError, match=r"11ad3fa6….*extract\.weights is .*set extract\.preprocess=published"):
        preprocessing(config("resnet50", f"extract.weights={weights}", "extract.preprocess=model"))
