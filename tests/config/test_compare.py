"""Which changes of a config make another run: settings that came or went between versions, sections, lists."""

from __future__ import annotations

from typing import Any

from trex.config import Config, load
from trex.config.compare import differences
from trex.config.loader import to_dict


def saved(**sections: dict[str, Any]) -> dict[str, Any]:
    """The default config as it was saved, with some of its sections exchanged."""
    return {**to_dict(Config()), **sections}


def test_config_is_no_other_than_itself_as_it_was_saved() -> None:
    assert differences(saved(), Config()) == []


def test_setting_that_an_earlier_version_did_not_have_counts_only_if_it_is_used() -> None:
    train = {key: value for key, value in to_dict(Config().train).items() if key != "seed"}
    assert differences(saved(train=train), Config()) == []
    (found,) = differences(saved(train=train), load(None, Config, ["train.seed=7"]))
    assert ["train.seed" in found, "7" in found] == [True, True]


def test_section_that_an_earlier_version_did_not_have_counts_only_if_it_is_used() -> None:
    old = {key: value for key, value in saved().items() if key != "optimizer"}
    assert differences(old, Config()) == []
    assert len(differences(old, load(None, Config, ["optimizer.lr=0.2", "optimizer.momentum=0.8"]))) == 2


def test_setting_that_this_version_does_not_have_any_more_is_no_difference() -> None:
    assert differences(saved(train={**to_dict(Config().train), "gone": 1}), Config()) == []


def test_damaged_section_is_compared_as_if_it_were_empty() -> None:
    assert differences({**saved(), "train": "nonsense"}, Config()) == []


def test_lists_are_compared_as_they_are_written_to_the_file() -> None:
    assert to_dict(Config())["crops"]["local_scale"] == [0.05, 0.4]
    (found,) = differences(saved(), load(None, Config, ["crops.local_scale=[0.05, 0.5]"]))
    assert ["crops.local_scale" in found, "0.4" in found, "0.5" in found] == [True] * 3


def test_weights_and_not_the_datasets_of_the_evaluation_make_another_run() -> None:
    assert differences(saved(), load(None, Config, ["extract.datasets=[dtd]", "extract.crop=64"])) == []
    (found,) = differences(saved(), load(None, Config, ["extract.weights=pixels"]))
    assert "extract.weights" in found


def test_mapping_files_belong_to_the_run() -> None:
    words = ["extract.weights=w.pth", "train.start=w.pth"]
    saved = to_dict(load(None, Config, words))
    changed = load(None, Config, [*words, "extract.key_map=m.yaml", "train.key_map=m.yaml"])
    assert [change.partition(":")[0] for change in map(str, differences(saved, changed))] == [
        "train.key_map",
        "extract.key_map",
    ]
