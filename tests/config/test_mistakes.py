"""Every kind of mistake in a config file: its place, its key, and what was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.plan.cluster import Cluster
from trex.config import Config, ConfigError, load


def mistakes(path: Path, text: str, *overrides: str, cls: type = Config) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, cls, overrides)
    return [str(mistake).removeprefix(f"{path}:") for mistake in caught.value.mistakes]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recipe.yaml"


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("train:\n  epochs: 1.5\n", "2:11", ("train.epochs", "'1.5'")),
        ("train:\n  epochs: 0x10\n", "2:11", ("train.epochs", "'0x10'")),
        ("train:\n  epochs:\n", "2:10", ("train.epochs",)),
        ("train:\n  epochs: [3]\n", "2:11", ("train.epochs", "list")),
        ("train:\n  epochs: {n: 3}\n", "2:11", ("train.epochs", "section")),
        ("train:\n  deterministic: 1\n", "2:18", ("train.deterministic", "'1'")),
        ("train:\n  precision: [fp16]\n", "2:14", ("train.precision", "fp16, bf16, off")),
        ("train:\n  precision: fb16\n", "2:14", ("train.precision", "'fb16'", "fp16")),
        ("optimizer:\n  lr: nan\n", "2:7", ("optimizer.lr", "'nan'")),
        ("optimizer:\n  lr: -inf\n", "2:7", ("optimizer.lr", "'-inf'")),
        ("optimizer:\n  lr: 0\n", "2:7", ("optimizer.lr", "0.0")),
        ("optimizer:\n  momentum: 1.01\n", "2:13", ("optimizer.momentum", "1.01")),
        ("optimizer: 0.1\n", "1:12", ("'optimizer'",)),
        ("optimizer: [lr]\n", "1:12", ("'optimizer'",)),
        ("extract:\n  datasets: dtd\n", "2:13", ("extract.datasets", "[a, b]")),
        ("extract:\n  datasets: {dtd: 1}\n", "2:13", ("extract.datasets", "[a, b]")),
        ("extract:\n  datasets: [dtd, [pets]]\n", "2:19", ("extract.datasets[1]", "list")),
        ("extract:\n  datasets: [dtd, a/b]\n", "2:13", ("extract.datasets", "'a/b'")),
        ("extract: {crop: 300, resize: 224}\n", "1:11", ("extract.crop", "300", "224")),
        ("crops:\n  local_scale: [0.1]\n", "2:16", ("crops.local_scale", "2", "1")),
        ("crops:\n  local_scale: [0, 0.1]\n", "2:16", ("crops.local_scale", "0.0")),
        ("data:\n  folders: /data\n", "2:12", ("data.folders",)),
        ("data:\n  folders: {dtd: [a]}\n", "2:18", ("data.folders.dtd", "list")),
        ('data:\n  root: "a\\nb"\n', "2:9", ("data.root",)),
        ("probe:\n  normalize: {dtd: maybe}\n", "2:20", ("probe.normalize.dtd", "'maybe'")),
        ("name: ../evil\n", "1:7", ("'name'", "../evil")),
        ("name: " + "a" * 65 + "\n", "1:7", ("'name'",)),
        ("[a]: 1\n", "1:1", ("key",)),
        ("train:\n  seed: 3\n  seed: 4\n", "3:3", ("'seed'", ":2:3")),
        ("train: {epochs: 3\n", "2:1", ()),
        ("train:\n\tepochs: 3\n", "2:1", ()),
    ],
)  # fmt: skip
def test_mistake_is_told_with_its_place_and_what_was_found(
    path: Path, text: str, place: str, said: tuple[str, ...]
) -> None:
    (found,) = mistakes(path, text)
    where, _, message = found.partition(": ")
    assert where == place
    assert [word for word in said if word not in message] == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train=3", "'train'"),
        ("train.epochs.more=3", "train.epochs"),
        ("train.epochs=", "train.epochs"),
        ("=3", "override '=3'"),
        ("train..epochs=3", "train..epochs"),
        ("train.epochs=[1", "train.epochs"),
        ("nonsense=3", "'nonsense'"),
    ],
)
def test_mistake_of_an_override_names_the_override(path: Path, override: str, said: str) -> None:
    (found,) = mistakes(path, "name: a\n", override)
    assert found.startswith(f"override '{override}'")
    assert said in found


@pytest.mark.parametrize("content", [b"name: caf\xe9\n", b"\xff\xfen\0"])
def test_file_that_is_not_utf8_is_one_mistake(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)) as caught:
        load(path, Config)
    assert len(caught.value.mistakes) == 1


def test_folder_in_place_of_a_file_is_one_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)) as caught:
        load(tmp_path, Config)
    assert len(caught.value.mistakes) == 1


@pytest.mark.parametrize("text", ["", "\n# nothing but a comment\n", "train:\n", "train: ~\n", "data: {folders: }\n"])
def test_what_is_left_empty_has_its_defaults(path: Path, text: str) -> None:
    path.write_text(text)
    assert load(path, Config) == Config()


@pytest.mark.parametrize("text", ["3_000", "+3000", "3000"])
def test_whole_number_may_have_a_sign_and_underscores(path: Path, text: str) -> None:
    path.write_text(f"optimizer: {{warmup_epochs: 0}}\ntrain: {{epochs: {text}}}\n")
    assert load(path, Config).train.epochs == 3000


@pytest.mark.parametrize("text", ["null", "~", ""])
def test_setting_that_may_be_nothing_takes_every_word_for_it(path: Path, text: str) -> None:
    path.write_text(f"train: {{start: {text}}}\n")
    assert load(path, Config, ["train.start_with=weights"]).train.start is None
    path.write_text(f'train: {{start: "{text}"}}\n')
    assert load(path, Config).train.start == {"~": str(Path.home())}.get(text, text)


def test_later_override_of_one_setting_counts(path: Path) -> None:
    path.write_text("train: {epochs: 20}\n")
    assert load(path, Config, ["train.epochs=30", "train.epochs=40"]).train.epochs == 40


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("probe:\n  tasks_per_node: 2\n", "1:1", ("probe", "2")),
        ("report:\n  nodes: 3\n", "1:1", ("report", "3")),
        ("train:\n  signal_lead: 9\n", "2:16", ("train.signal_lead", "9")),
        ("train:\n  options: {mem-per-cpu: 4 G}\n", "2:3", ("train.options", "mem-per-cpu", "4 G")),
        ("train:\n  options: [exclusive]\n", "2:12", ("train.options",)),
        ("setup: module load cuda\n", "1:8", ("'setup'",)),
        ("partition: gpu\n", "1:1", ("'partition'",)),
    ],
)
def test_mistake_of_a_cluster_file_is_told_with_its_place(
    path: Path, text: str, place: str, said: tuple[str, ...]
) -> None:
    (found,) = mistakes(path, text, cls=Cluster)
    where, _, message = found.partition(": ")
    assert where == place
    assert [word for word in said if word not in message] == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["extract.key_map=m.yaml"], "'extract' has key_map, but weights is trained: expected a weights file"),
        (["extract.key_map=m.yaml", "extract.weights=pixels"], "'extract' has key_map, but weights is pixels"),
        (["train.key_map=m.yaml"], "'train' has key_map: expected train.start to be a file"),
        (["train.key_map=m.yaml", "train.start=w.pth", "train.start_with=all"], "expected .* train.start_with encoder"),
    ],
)
def test_mapping_file_needs_weights_of_which_it_maps_the_names(settings: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load(None, Config, settings)
