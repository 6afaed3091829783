"""Reading configs: what may be written, and the error messages for mistakes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from trex.config import Config, ConfigError, load, to_yaml
from trex.config.compare import differences
from trex.config.loader import to_dict

RECIPES = ["trex_star", "trex", "trex1", "trex3", "supervised"]
CONFIGS = Path(__file__).parents[2] / "configs"


def read(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load(path, Config, overrides)


def mistakes(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, *overrides)
    return [str(mistake).replace(str(tmp_path) + "/", "") for mistake in caught.value.mistakes]


def test_misspelled_key_names_file_line_and_nearest_key(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "name: a\noptimizer:\n  learnign_rate: 1\n  momentun: 0.5\n")
    assert found[0].startswith("recipe.yaml:3:3: unknown key 'optimizer.learnign_rate'")
    assert found[1] == "recipe.yaml:4:3: unknown key 'optimizer.momentun'; did you mean 'momentum'?"


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    text = "name: a b\nmodle: {}\ntrain:\n  epochs: sixty\n  precision: fp17\ncrops:\n  flip: 2\n"
    found = mistakes(tmp_path, text, "train.seed=-1")
    assert len(found) == 6
    assert found[-1] == "override 'train.seed=-1': 'train.seed' is -1: expected at least 0" or any(
        "override 'train.seed=-1'" in line for line in found
    )


def test_key_that_is_set_twice_is_a_mistake(tmp_path: Path) -> None:
    assert "is set twice" in mistakes(tmp_path, "name: a\nname: b\n")[0]


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "1E-4"])
def test_all_notations_of_a_number_are_read_as_this_number(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, f"optimizer:\n  lr: {text}\n").optimizer.lr == 1e-4


def test_words_that_yaml_reads_as_booleans_stay_text(tmp_path: Path) -> None:
    assert read(tmp_path, "name: no\n").name == "no"
    assert read(tmp_path, "train:\n  precision: off\n").train.precision == "off"
    assert "expected true or false" in mistakes(tmp_path, "method:\n  normalize_input: yes\n")[0]


def test_quoted_number_is_a_mistake_that_says_to_remove_the_quotes(tmp_path: Path) -> None:
    assert "remove the quotes" in mistakes(tmp_path, 'train:\n  batch_size: "64"\n')[0]


@pytest.mark.parametrize(
    "text",
    ["name: &a x\n", "name: !!python/object/apply:os.system [ls]\n", "name: *a\n", "a: [1,\n", "- 1\n", "x: \x00\n"],
)
def test_anchors_tags_and_invalid_yaml_are_refused(tmp_path: Path, text: str) -> None:
    assert mistakes(tmp_path, text)


def test_file_of_two_megabytes_is_refused(tmp_path: Path) -> None:
    assert "1 MiB" in mistakes(tmp_path, "#" * (2 << 20))[0]


def test_missing_file_is_one_clear_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.yaml", Config)


def test_override_replaces_the_files_value_and_is_checked_in_the_same_way(tmp_path: Path) -> None:
    config = read(
        tmp_path, "train:\n  epochs: 20\n", "train.epochs=30", "crops.local_scale=[0.1, 0.2]", "data.folders.dtd=/x"
    )
    assert (config.train.epochs, config.crops.local_scale, config.data.folders) == (30, (0.1, 0.2), {"dtd": "/x"})
    assert "expected a whole number" in mistakes(tmp_path, "", "train.epochs=many")[0]
    assert "section.key=value" in mistakes(tmp_path, "", "train.epochs")[0]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (f"train.seed={2**32}", f"expected at most {2**32 - 1}"),
        (f"train.seed={'9' * 5000}", "expected a whole number"),
        (f"extract.datasets={'[' * 3000}", "nested more than 20 levels deep"),
        ("data.folders.a b=/x", "expected the form section.key=value"),
    ],
)
def test_value_out_of_every_sensible_range_is_a_mistake(tmp_path: Path, setting: str, expected: str) -> None:
    assert expected in "\n".join(mistakes(tmp_path, "", setting))


def test_override_may_name_a_dataset_with_a_hyphen(tmp_path: Path) -> None:
    assert read(tmp_path, "", "data.folders.birds-525=/birds").data.folders == {"birds-525": "/birds"}


def test_settings_that_depend_on_each_other_are_checked(tmp_path: Path) -> None:
    assert "smaller number first" in mistakes(tmp_path, "crops:\n  local_scale: [0.5, 0.1]\n")[0]
    assert "at most train.epochs" in mistakes(tmp_path, "train: {epochs: 5}\n")[0]


def test_config_that_is_written_and_read_again_is_equal(tmp_path: Path) -> None:
    sections = "optimizer: {final_lr: 1e-7}\ndata: {folders: {in1k: /d}}\nprobe: {kinds: [knn20]}\n"
    config = read(tmp_path, "name: a\n" + sections)
    (tmp_path / "saved.yaml").write_text(to_yaml(config))
    assert load(tmp_path / "saved.yaml", Config) == config


@pytest.mark.parametrize(
    ("recipe", "layers", "global_scale", "local_scale", "bank"),
    [
        ("trex_star", 1, (0.40, 1.0), (0.05, 0.40), 8192),
        ("trex", 3, (0.25, 1.0), (0.05, 0.25), 8192),
        ("trex1", 1, (0.40, 1.0), (0.05, 0.40), None),
        ("trex3", 3, (0.25, 1.0), (0.05, 0.25), None),
    ],
)
def test_recipes_have_the_published_values(recipe, layers, global_scale, local_scale, bank) -> None:
    config = load(CONFIGS / f"{recipe}.yaml", Config)
    method = config.method
    assert (config.name, method.hidden_layers) == (recipe, layers)
    if bank:
        assert (method.name, method.memory_bank_size, method.momentum) == ("trex_class_means", bank, 0.999)
    else:
        assert method.name == "trex_plain"
    assert (config.crops.global_scale, config.crops.local_scale) == (global_scale, local_scale)
    assert (config.crops.global_count, config.crops.local_count) == (1, 8)
    assert (config.crops.global_size, config.crops.local_size) == (224, 96)
    assert (config.optimizer.lr, config.optimizer.final_lr, config.optimizer.warmup_epochs) == (0.1, 1e-6, 10)
    assert (config.optimizer.momentum, config.optimizer.weight_decay) == (0.9, 1e-4)
    assert (config.train.epochs, config.train.batch_size, config.train.precision) == (100, 256, "fp16")
    assert (method.temperature, method.output_dim) == (0.1, 256)
    assert (config.model.encoder, method.hidden_dim, method.normalize_input) == ("resnet50", 2048, True)
    crops = config.crops
    assert (crops.flip, crops.jitter, crops.grayscale, crops.solarize) == (0.5, 0.8, 0.2, 0.2)
    assert (crops.brightness, crops.contrast, crops.saturation, crops.hue) == (0.4, 0.4, 0.2, 0.1)
    assert (crops.global_blur, crops.local_blur, crops.blur_radius) == (0.2, 0.5, (0.1, 2.0))
    assert (config.extract.preprocess, config.extract.crop, config.probe.seeds) == ("published", None, 5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_sets_only_values_that_differ_from_the_defaults(recipe: str) -> None:
    def leaves(tree: dict, prefix: str = "") -> dict:
        flat = {}
        for key, value in tree.items():
            flat |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
        return flat

    import yaml

    settings = leaves(yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text()))
    defaults = leaves(to_dict(Config()))
    assert all(value != defaults[key] for key, value in settings.items())


def test_only_settings_that_change_the_result_make_it_another_run(tmp_path: Path) -> None:
    saved = to_dict(read(tmp_path, "name: a\n"))
    same = read(
        tmp_path, "name: a\n", "train.log_every=7", "data.workers=1", "checkpoint.keep=5", "data.root=/elsewhere"
    )
    assert differences(saved, same) == []
    other = read(tmp_path, "name: a\n", "optimizer.lr=0.2")
    assert differences(saved, other) == ["optimizer.lr: was 0.1, is now 0.2"]


def test_method_is_chosen_by_name_and_has_its_own_settings(tmp_path: Path) -> None:
    text = "method:\n  name: trex_plain\n  temperature: 0.2\n"
    config = read(tmp_path, text, "method.output_dim=64")
    assert to_dict(config.method) == {
        "name": "trex_plain", "hidden_layers": 1, "hidden_dim": 2048, "output_dim": 64, "normalize_input": True,
        "temperature": 0.2,
    }  # fmt: skip
    assert read(tmp_path, "", "method.momentum=0.99").method == replace(Config().method, momentum=0.99)
    assert to_dict(read(tmp_path, "", "method.name=supervised").method) == {"name": "supervised"}
    (tmp_path / "saved.yaml").write_text(to_yaml(config))
    assert load(tmp_path / "saved.yaml", Config) == config


def test_setting_of_another_method_is_a_mistake_that_lists_the_settings_of_this_method(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "method:\n  name: supervised\n  memory_bank_size: 64\n") == [
        "recipe.yaml:3:3: unknown key 'method.memory_bank_size': supervised has the settings name"
    ]
    (found,) = mistakes(tmp_path, "method: {name: trex_plain, output_dims: 64}\n")
    assert found.startswith("recipe.yaml:1:28: unknown key 'method.output_dims': trex_plain has the settings name, ")
    assert found.endswith("; did you mean 'output_dim'?")
    assert "'method.momentum' is 2.0: expected at most 1" in mistakes(tmp_path, "", "method.momentum=2")[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("method: {name: supervize}\n", "recipe.yaml:1:16: 'method.name' is 'supervize': expected one of supervised, "
         "trex_class_means, trex_plain; did you mean 'supervised'?"),
        ("method: {name: _trex}\n", "'method.name' is '_trex': expected one of"),
        ("method: {name: [a]}\n", "'method.name' is '': expected one of"),
        ("method: supervised\n", "'method' is a section: expected `key: value` lines below it"),
    ],
)  # fmt: skip
def test_unknown_method_is_a_mistake_that_lists_the_methods(tmp_path: Path, text: str, expected: str) -> None:
    (found,) = mistakes(tmp_path, text)
    assert expected in found


def test_changed_method_or_changed_setting_of_the_method_makes_it_another_run(tmp_path: Path) -> None:
    saved = to_dict(read(tmp_path, "name: a\n"))
    assert differences(saved, read(tmp_path, "name: a\n", "method.momentum=0.9")) == [
        "method.momentum: was 0.999, is now 0.9"
    ]
    assert differences(saved, read(tmp_path, "name: a\n", "method.name=supervised")) == [
        "method.name: was trex_class_means, is now supervised"
    ]


def test_settings_of_a_method_are_read_without_torch() -> None:
    code = (
        "import sys; from trex.config import Config, load; from trex.config.loader import choices, chosen_class\n"
        "for name in choices('trex.methods'): load(None, Config, [f'method.name={name}'])\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'h5py')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=CONFIGS.parent).returncode == 0
