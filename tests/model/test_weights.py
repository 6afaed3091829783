"""Encoder weights from files: names of other toolkits are understood, nothing loads partially, no code runs."""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.released import released
from trex.errors import UserError
from trex.model.encoder import build_encoder, encoder_names, initial_encoder, require_trainable
from trex.model.weights import read_encoder


@pytest.fixture(scope="module")
def resnet() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return torchvision.models.resnet18().state_dict()


def other(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def assert_read(path: Path, state: dict[str, Tensor], encoder: str = "resnet18") -> None:
    found = read_encoder(path, encoder)
    assert list(found) == list(build_encoder(encoder).state_dict())
    assert all(torch.equal(found[key], state[key]) for key in found)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "", "module.", "model.", "backbone.", "encoder.", "base_encoder.", "module.encoder_q.", "_orig_mod.",
        "module.encoder.", "module.model.encoder.", "module._orig_mod.backbone.",
    ],
)  # fmt: skip
def test_prefixes_of_other_toolkits_are_removed(tmp_path: Path, resnet, prefix: str) -> None:
    torch.save(prefixed(prefix, resnet), tmp_path / "w.pth")
    assert_read(tmp_path / "w.pth", resnet)


@pytest.mark.parametrize("container", ["model", "state_dict", "model_ema", "state_dict_ema", "teacher", "student"])
def test_state_dict_is_found_under_the_keys_of_other_toolkits(tmp_path: Path, resnet, container: str) -> None:
    torch.save({"args": {"model": "resnet18"}, container: prefixed("module.", resnet), "epoch": 3}, tmp_path / "w.pth")
    assert_read(tmp_path / "w.pth", resnet)


@pytest.mark.parametrize("prefix", ["module.module.", "net.", "module.model_ema.encoder.", "encoder.module.encoder."])
def test_repeated_and_unknown_prefixes_are_not_removed(tmp_path: Path, resnet, prefix: str) -> None:
    torch.save(prefixed(prefix, resnet), tmp_path / "w.pth")
    with pytest.raises(UserError, match="does not hold the weights of a resnet18"):
        read_encoder(tmp_path / "w.pth", "resnet18")


def test_prefix_in_the_middle_of_a_key_is_not_removed(tmp_path: Path, resnet) -> None:
    state = {key.replace("layer1.", "layer1.module."): value for key, value in resnet.items()}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"\+ layer1\.module\.0\.conv1\.weight"):
        read_encoder(tmp_path / "w.pth", "resnet18")


def test_full_checkpoint_gives_the_trained_encoder_not_its_average(tmp_path: Path) -> None:
    model, _, checkpoint = released()
    torch.save(checkpoint, tmp_path / "x_checkpoint_full.pth")
    assert_read(tmp_path / "x_checkpoint_full.pth", model.module.model.encoder.state_dict())


@pytest.mark.parametrize(
    ("taken", "left"), [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("teacher", "student")]
)
def test_file_with_two_networks_gives_the_one_that_its_authors_evaluate_and_logs_it(
    tmp_path: Path, resnet, caplog, taken: str, left: str
) -> None:
    torch.save({left: other(resnet), taken: prefixed("module.backbone.", resnet)}, tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING):
        assert_read(tmp_path / "w.pth", resnet)
    assert f"w.pth holds several networks: '{taken}.module.backbone.' is used, '{left}.' not" in caplog.text


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        ("module.base_encoder.", "module.momentum_encoder."),  # MoCo v3
        ("module.encoder_q.", "module.encoder_k."),  # MoCo
        ("module.model.encoder.", "module.model_ema.encoder."),  # released full checkpoints
        ("backbone.", "momentum_backbone."),
    ],
)
def test_momentum_network_next_to_the_trained_one_is_left_out_and_the_log_says_so(
    tmp_path: Path, resnet, caplog, taken: str, left: str
) -> None:
    torch.save({"state_dict": {**prefixed(left, other(resnet)), **prefixed(taken, resnet)}}, tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING):
        assert_read(tmp_path / "w.pth", resnet)
    assert f"w.pth holds several networks: '{taken}' is used, '{left}' not" in caplog.text


def test_file_with_one_network_logs_no_choice(tmp_path: Path, resnet, caplog) -> None:
    torch.save({"model": {**prefixed("module.", resnet), "model_ema.x": torch.zeros(1)}}, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        assert_read(tmp_path / "w.pth", resnet)
    assert not caplog.text


@pytest.mark.parametrize("first", ["", "module.", "backbone."])
@pytest.mark.parametrize("second", ["encoder.", "model."])
def test_two_networks_under_known_prefixes_are_a_question_and_its_answer_works(
    tmp_path: Path, resnet, first: str, second: str
) -> None:
    path, lines = tmp_path / "w.pth", tmp_path / "map.yaml"
    torch.save({**prefixed(first, resnet), **prefixed(second, other(resnet))}, path)
    with pytest.raises(UserError, match=r"holds 2 complete networks[\s\S]*set extract\.key_map to a file") as caught:
        read_encoder(path, "resnet18")
    assert [f"'{prefix}'" in str(caught.value) for prefix in (first, second) if prefix] == [True] * len(
        [prefix for prefix in (first, second) if prefix]
    )
    lines.write_text(re.split(r"leave out all others:\n", str(caught.value))[1])
    found = read_encoder(path, "resnet18", lines)
    assert all(torch.equal(found[key], resnet[key]) for key in found)
    lines.write_text(f"'{second}': ''\n'': null\n")
    assert not read_encoder(path, "resnet18", lines)["conv1.weight"].any()


@pytest.mark.parametrize("place", ["net.", "module.module."])
def test_network_under_an_unknown_prefix_is_named_in_the_error_and_its_answer_works(
    tmp_path: Path, resnet, place: str
) -> None:
    torch.save(prefixed(place, resnet), tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"holds a resnet18 under '{re.escape(place)}'") as caught:
        read_encoder(tmp_path / "w.pth", "resnet18")
    (tmp_path / "map.yaml").write_text(re.split(r"leave out all others:\n", str(caught.value))[1])
    found = read_encoder(tmp_path / "w.pth", "resnet18", tmp_path / "map.yaml")
    assert all(torch.equal(found[key], resnet[key]) for key in found)


def test_state_dict_of_numpy_arrays_is_read(tmp_path: Path, resnet) -> None:
    torch.save({"state_dict": {key: value.numpy() for key, value in resnet.items()}}, tmp_path / "w.pth")
    assert_read(tmp_path / "w.pth", resnet)


@pytest.mark.parametrize("part", ["fc.weight", "projection_head.0.weight", "prototypes.weight", "predictor.3.bias"])
def test_heads_next_to_the_encoder_are_allowed(tmp_path: Path, resnet, part: str) -> None:
    torch.save({**prefixed("module.", resnet), f"module.{part}": torch.zeros(3)}, tmp_path / "w.pth")
    assert_read(tmp_path / "w.pth", resnet)


def test_safetensors_is_read(tmp_path: Path, resnet) -> None:
    save_file(prefixed("backbone.", resnet), tmp_path / "model.safetensors")
    assert_read(tmp_path / "model.safetensors", resnet)


def test_batch_norms_counter_may_be_missing(tmp_path: Path, resnet) -> None:
    torch.save({k: v for k, v in resnet.items() if not k.endswith("num_batches_tracked")}, tmp_path / "w.pth")
    assert_read(tmp_path / "w.pth", resnet)


# ---- weights that do not fit


def test_error_for_another_architecture_shows_the_difference_and_names_the_right_one(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "r34.pth")
    with pytest.raises(UserError) as found:
        read_encoder(tmp_path / "r34.pth", "resnet18")
    assert str(found.value).splitlines() == [
        f"{tmp_path}/r34.pth does not hold the weights of a resnet18:",
        "  unexpected, 96:",
        "    + layer1.2.conv1.weight",
        *(f"    + layer1.2.bn1.{k}" for k in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        "    + layer1.2.conv2.weight",
        "    + layer1.2.bn2.weight",
        "    … and 88 more",
        "The file holds a resnet34: set model.encoder=resnet34",
    ]


def test_difference_lists_missing_and_mismatched_keys(tmp_path: Path, resnet) -> None:
    state = {key: value for key, value in resnet.items() if key != "layer2.0.conv1.weight"}
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError) as found:
        read_encoder(tmp_path / "w.pth", "resnet18")
    assert "  missing, 1:\n    - layer2.0.conv1.weight\n" in str(found.value)
    assert "    ~ conv1.weight: (64, 1, 7, 7), expected (64, 3, 7, 7)\n" in str(found.value)


@pytest.mark.parametrize("content", [[1, 2], {"model": {"a": 1}}, {}, "text", torch.zeros(2)])
def test_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: (expected a state dict|it contains no tensors)"):
        read_encoder(tmp_path / "w.pth", "resnet18")


# ---- hostile and damaged files


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("place", ["args", "model", "inside", "bare"])
def test_pickle_with_a_payload_is_refused_and_does_not_run(tmp_path: Path, place: str) -> None:
    checkpoint = {"model": {"conv1.weight": torch.zeros(1)}, "args": argparse.Namespace(arch="resnet18"), "epoch": 1}
    payload = Payload(tmp_path / "canary")
    if place == "inside":
        checkpoint["args"] = argparse.Namespace(note=payload)
    elif place != "bare":
        checkpoint[place] = payload
    if place == "bare":
        (tmp_path / "w.pth").write_bytes(pickle.dumps(payload, protocol=2))
    else:
        torch.save(checkpoint, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: refused: it holds more than tensors.*mkdir"):
        read_encoder(tmp_path / "w.pth", "resnet18")
    assert not (tmp_path / "canary").exists()


def tensor(begin: int, end: int, shape: tuple[int, ...] = (1,)) -> dict[str, Any]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ({"a": tensor(0, 4), "b": tensor(2, 6)}, None),  # overlap
        ({"a": tensor(0, 400, (100,))}, None),  # beyond the end
        ({"a": tensor(4, 0)}, None),  # end before begin
        ({"a": tensor(0, 8, (2**62, 2**62))}, None),  # number of elements that overflows
        ({"a": tensor(0, 4)}, None),  # bytes that belong to no tensor
        ({"a": tensor(0, 8, (2,))}, 2**60),  # header larger than any memory
        ({"a": tensor(0, 8, (2,))}, 3),  # truncated JSON
    ],
)
def test_hostile_safetensors_file_is_refused(tmp_path: Path, header: dict[str, Any], size: int | None) -> None:
    text = json.dumps(header).encode()
    length = len(text) if size is None else size
    (tmp_path / "m.safetensors").write_bytes(length.to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(UserError, match=r"m\.safetensors: not a readable safetensors file"):
        read_encoder(tmp_path / "m.safetensors", "resnet18")


@pytest.mark.parametrize("name", ["w.pth", "m.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\0" * 100, None])
def test_error_for_a_damaged_or_missing_file_names_it(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        read_encoder(tmp_path / name, "resnet18")


# ---- all encoders


@pytest.mark.parametrize("name", encoder_names())
def test_features_of_every_torchvision_encoder_have_its_feature_dim(name: str) -> None:
    with torch.device("meta"):
        encoder = build_encoder(name)
        images = torch.zeros(2, 3, encoder.image_size or 96, encoder.image_size or 96)
        assert encoder.eval()(images).shape == (2, encoder.feature_dim)


@pytest.mark.parametrize("name", [name for name in encoder_names() if not name.startswith("vit")])
def test_every_resnet_can_be_trained(name: str) -> None:
    require_trainable(name)


@pytest.mark.slow
def test_feature_of_a_vit_is_the_class_token_after_the_final_norm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vit = torchvision.models.vit_b_32()
    torch.save({"model": prefixed("module.", vit.state_dict())}, tmp_path / "vit.pth")
    encoder = build_encoder("vit_b_32").eval()
    encoder.load_state_dict(read_encoder(tmp_path / "vit.pth", "vit_b_32"))
    seen: list[Tensor] = []
    vit.encoder.ln.register_forward_hook(lambda module, given, result: seen.append(result[:, 0]))
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        vit.eval()(images)
        assert torch.equal(encoder(images), seen[0])


def test_feature_of_a_timm_model_is_the_input_of_its_classifier(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224").eval()
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    name = "timm/vit_tiny_patch16_224"
    encoder = build_encoder(name).eval()
    encoder.load_state_dict(read_encoder(tmp_path / "model.safetensors", name))
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = vit.forward_head(vit.forward_features(images), pre_logits=True)
        assert torch.equal(encoder(images), expected)
    assert (encoder.feature_dim, encoder.image_size, encoder.mean) == (192, 224, (0.5, 0.5, 0.5))


@pytest.mark.slow
def test_error_for_a_vit_shows_the_difference_too(tmp_path: Path) -> None:
    state = torchvision.models.vit_b_32().state_dict()
    del state["encoder.pos_embedding"]
    torch.save(state, tmp_path / "vit.pth")
    with pytest.raises(UserError, match=r"weights of a vit_b_32:\n  missing, 1:\n    - encoder\.pos_embedding\n"):
        read_encoder(tmp_path / "vit.pth", "vit_b_32")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_b16", "did you mean 'vit_b_16'"),
        ("timm/vit_tny_patch16_224", "did you mean 'vit_tiny_patch16_224'"),
        ("timm/vit_tiny_patch16_224.no_such_tag", "no_such_tag"),
    ],
)
def test_error_for_an_unknown_encoder_suggests_the_nearest_name(name: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        build_encoder(name)


@pytest.mark.parametrize("name", ["vit_b_16", "timm/resnet50"])
def test_training_an_encoder_that_can_only_be_evaluated_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}': it can be evaluated, not trained"):
        require_trainable(name)


def test_initial_encoder_depends_on_the_seed_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = initial_encoder("resnet18", 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(5)
    again = initial_encoder("resnet18", 3)
    assert torch.equal(one.conv1.weight, again.conv1.weight)
    assert isinstance(one, nn.Module)
