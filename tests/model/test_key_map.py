"""Files that map the names of other libraries to an encoder's, and what the errors say that such a file needs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from torch import Tensor

from trex.errors import UserError
from trex.model.encoder import build_encoder_on_meta
from trex.model.key_map import KeyMap, suggest
from trex.model.weights import read_encoder

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def resnet() -> Weights:
    torch.manual_seed(0)
    return torchvision.models.resnet18().state_dict()


def written(path: Path, lines: dict[str, str | None]) -> Path:
    path.write_text(json.dumps(lines, indent=2) if path.suffix == ".json" else yaml.safe_dump(lines))
    return path


def renamed(state: Weights) -> Weights:
    """ResNet-18 as a library could name it: other names of modules, in the same order."""
    words = {"layer": "_stage", "conv": "_convolution", "bn": "_norm", "downsample": "_shortcut", "fc": "_classifier"}
    return {re.sub("|".join(words), lambda found: words[found[0]], key): value for key, value in state.items()}


def assert_read(path: Path, state: Weights, key_map: Path) -> None:
    found = read_encoder(path, "resnet18", key_map)
    assert list(found) == list(build_encoder_on_meta("resnet18").state_dict())
    assert all(torch.equal(found[key], state[key]) for key in found)


# ---- mapping files


@pytest.mark.parametrize("name", ["map.yaml", "map.json"])
def test_names_and_prefixes_are_mapped(tmp_path: Path, resnet: Weights, name: str) -> None:
    state = {f"net.{key.replace('layer1', 'first')}": value for key, value in resnet.items()}
    state["net.stem"] = state.pop("net.conv1.weight")
    torch.save(state, tmp_path / "w.pth")
    lines: dict[str, str | None] = {"net.": "", "net.first.": "layer1.", "net.stem": "conv1.weight"}
    assert_read(tmp_path / "w.pth", resnet, written(tmp_path / name, lines))


def test_whole_name_counts_more_than_a_prefix_and_a_long_prefix_more_than_a_short_one() -> None:
    lines = {"": "rest.", "a.": "x.", "a.b.": "y.", "a.b.c": "z", "a.b.d": None}
    mapping = KeyMap(Path("map.yaml"), lines)
    names = ["a.b.c", "a.b.d", "a.b.c2", "a.b.c.d", "a.c", "ab.c", "a"]
    assert [mapping.new_name(name) for name in names] == ["z", None, "y.c2", "y.c.d", "x.c", "rest.ab.c", "rest.a"]


def test_weight_that_no_line_leaves_out_is_still_refused(tmp_path: Path, resnet: Weights) -> None:
    torch.save(
        {**{f"net.{key}": value for key, value in resnet.items()}, "other.w": torch.zeros(1)}, tmp_path / "w.pth"
    )
    path = written(tmp_path / "map.yaml", {"net.": ""})
    with pytest.raises(UserError, match=r"unexpected, 1:\n    \+ other\.w\n.*left out by a line `name: null`"):
        read_encoder(tmp_path / "w.pth", "resnet18", path)
    assert_read(tmp_path / "w.pth", resnet, written(path, {"net.": "", "other.": None}))


def test_larger_network_is_not_cut_to_a_smaller_one_by_a_line(tmp_path: Path) -> None:
    state = torchvision.models.resnet34().state_dict()
    torch.save({f"net.{key}": value for key, value in state.items()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"set model\.encoder=resnet34"):
        read_encoder(tmp_path / "w.pth", "resnet18", written(tmp_path / "map.yaml", {"net.": ""}))


def test_line_can_name_a_network_that_is_not_used_by_default(tmp_path: Path, resnet: Weights) -> None:
    other = {key: torch.zeros_like(value) for key, value in resnet.items()}
    torch.save({"teacher": other, "student": {f"module.{key}": resnet[key] for key in resnet}}, tmp_path / "w.pth")
    assert_read(tmp_path / "w.pth", resnet, written(tmp_path / "map.yaml", {"student.module.": "", "": None}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n", r"map\.yaml:1:1: expected `key: value` lines"),
        ("", r"map\.yaml: expected lines with a name"),
        ("a: [b]\n", r"map\.yaml:1:4: 'a': expected a name, or null"),
        ("a.: b\n", r"map\.yaml:1:5: 'a\.: b': expected two names, or two prefixes"),
        ("a: b.\n", r"map\.yaml:1:4: 'a: b\.': expected two names, or two prefixes"),
        ("a: b\na: c\n", r"map\.yaml:2:1: 'a' is set twice"),
        ("a: &x b\n", "anchors and aliases are not allowed"),
        ("a: !!python/name:os.system b\n", "tags such as"),
        ("gone.: layer1.\n", r"map\.yaml: .*w\.pth has no weight for 1 of its lines: 'gone\.'"),
        (
            "layer1.: layer2.\n",
            r"map\.yaml: both 'layer1\.0\.conv1\.weight' and 'layer2\.0\..* become 'layer2\.0\.conv1",
        ),
    ],
)
def test_mistake_in_a_mapping_file_is_named(tmp_path: Path, resnet: Weights, text: str, expected: str) -> None:
    torch.save(resnet, tmp_path / "w.pth")
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(UserError, match=expected):
        read_encoder(tmp_path / "w.pth", "resnet18", tmp_path / "map.yaml")


def test_missing_mapping_file_is_named(tmp_path: Path, resnet: Weights) -> None:
    torch.save(resnet, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"gone\.yaml: cannot be read"):
        read_encoder(tmp_path / "w.pth", "resnet18", tmp_path / "gone.yaml")


# ---- what errors say


def test_error_shows_how_a_mapping_file_begins_if_the_shapes_agree_in_order(tmp_path: Path, resnet: Weights) -> None:
    torch.save(renamed(resnet), tmp_path / "w.pth")
    with pytest.raises(UserError) as caught:
        read_encoder(tmp_path / "w.pth", "resnet18")
    text = str(caught.value)
    assert "  missing, 100:\n    - conv1.weight\n" in text
    assert "set extract.key_map to it" in text
    assert "\n    _convolution1.: conv1.\n    _norm1.: bn1.\n    _stage1.0._convolution1.: layer1.0.conv1.\n" in text
    assert re.search(r"\n    … and \d+ more$", text)


def test_suggested_lines_work_as_a_file(tmp_path: Path, resnet: Weights) -> None:
    torch.save(renamed(resnet), tmp_path / "w.pth")
    lines = suggest(renamed(resnet), build_encoder_on_meta("resnet18").state_dict())
    assert_read(tmp_path / "w.pth", resnet, written(tmp_path / "map.yaml", lines))


def test_suggestion_names_each_weight_where_modules_do_not_correspond(tmp_path: Path, resnet: Weights) -> None:
    state = {key.replace(".", "_"): value for key, value in resnet.items()}
    torch.save(state, tmp_path / "w.pth")
    lines = suggest(state, build_encoder_on_meta("resnet18").state_dict())
    assert lines["layer1_0_conv1_weight"] == "layer1.0.conv1.weight"
    counters = {key for key in lines if key.endswith("num_batches_tracked")}
    assert counters
    path = written(tmp_path / "map.json", lines)
    found = read_encoder(tmp_path / "w.pth", "resnet18", path)
    assert all(torch.equal(found[key], resnet[key]) for key in found if not key.endswith("num_batches_tracked"))


def test_error_lists_names_by_shape_if_the_order_differs(tmp_path: Path, resnet: Weights) -> None:
    state = dict(reversed(renamed(resnet).items()))
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError) as caught:
        read_encoder(tmp_path / "w.pth", "resnet18")
    text = str(caught.value)
    assert "maps 100 of the file's 102 names to the encoder's and set extract.key_map to it" in text
    assert "\n    conv1.weight (64, 3, 7, 7): _convolution1.weight\n" in text


def efficientnet() -> tuple[Weights, Weights]:
    """timm's weights, and the same under the names of EfficientNet-PyTorch."""
    import timm

    torch.manual_seed(0)
    state: Weights = timm.create_model("efficientnet_b0").state_dict()
    blocks = sorted({tuple(map(int, key.split(".")[1:3])) for key in state if key.startswith("blocks.")})
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    later = {
        "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
        "conv_pwl": "_project_conv", "bn3": "_bn2",
    }  # fmt: skip
    squeeze = {"conv_reduce": "_se_reduce", "conv_expand": "_se_expand"}
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    theirs = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] != "blocks":
            theirs[".".join([outside[parts[0]], *parts[1:]])] = value
            continue
        place = (int(parts[1]), int(parts[2]))
        rest = [squeeze[parts[4]], *parts[5:]] if parts[3] == "se" else [
            (first if place[0] == 0 else later)[parts[3]], *parts[4:]]  # fmt: skip
        theirs[".".join(["_blocks", str(blocks.index(place)), *rest])] = value
    return state, theirs


def test_names_of_efficientnet_pytorch_are_mapped_to_timms_by_the_suggested_lines(tmp_path: Path) -> None:
    ours, theirs = efficientnet()
    torch.save(theirs, tmp_path / "w.pth")
    name = "timm/efficientnet_b0"
    with pytest.raises(UserError, match=r"\n    _conv_stem\.: conv_stem\.\n    _bn0\.: bn1\.\n"):
        read_encoder(tmp_path / "w.pth", name)
    lines = suggest(theirs, build_encoder_on_meta(name).state_dict())
    assert lines["_blocks.1._expand_conv."] == "blocks.1.0.conv_pw."
    assert lines["_fc.weight"] is None
    found = read_encoder(tmp_path / "w.pth", name, written(tmp_path / "map.yaml", lines))
    assert all(torch.equal(found[key], ours[key]) for key in found)
