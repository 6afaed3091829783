"""The model card: what it says of runs without scores, with a start file, on a subset, and of each layout."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.records.examples import ENVIRONMENT, METRICS, PROBE_RESULT
from tests.reporting.test_comparisons import write_tested
from trex.config import Config, load
from trex.config.loader import to_dict
from trex.export.card import Facts, card
from trex.records.environment import Node
from trex.records.probe_result import predictions_file
from trex.records.run_dir import RunDir

SAVED: dict[str, Any] = {
    "config": to_dict(load(None, Config, ["model.encoder=resnet18", "data.dataset=digits_seen"])),
    "position": {"epoch": 100, "step": 0, "global_step": 800},
    "classes": ["0", "1"],
    "data_digest": "d" * 64,
    "start": None,
}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "little")
    made.root.mkdir()
    return made


def facts(**changes: Any) -> Facts:
    made = Facts("encoder.pth", "encoder", "f" * 64, "e" * 64, "epoch-0100-step-00000000", "c" * 64, True, None, SAVED)
    return replace(made, **changes)


def saved(**sections: dict[str, Any]) -> dict[str, Any]:
    """The state with some settings of its config exchanged."""
    made = copy.deepcopy(SAVED)
    for section, values in sections.items():
        made["config"][section].update(values)
    return made


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def test_run_without_scores_or_environment_has_a_card_that_says_so(run: RunDir) -> None:
    text = card(run, facts())
    assert [text.count(f"## {title}\n") for title in ("Use", "Scores", "Recipe", "Digests", "Versions", "License")] == (
        [1] * 6
    )
    assert "%" not in section(text, "Scores")
    assert "torch" not in section(text, "Versions")


def test_all_digests_are_in_the_card(run: RunDir) -> None:
    digests = section(card(run, facts()), "Digests")
    assert [letter * 64 in digests for letter in "fecd"] == [True] * 4


@pytest.mark.parametrize("name", ["encoder.pth", "encoder.safetensors"])
def test_code_to_load_an_encoder_fits_the_kind_of_file(run: RunDir, name: str) -> None:
    use = section(card(run, facts(file=name)), "Use")
    assert "torchvision.models.resnet18()" in use
    assert ("safetensors.torch" in use) == name.endswith("safetensors")


def test_full_checkpoint_says_how_it_is_evaluated_and_continued(run: RunDir) -> None:
    use = section(card(run, facts(file="x_checkpoint_full.pth", layout="full")), "Use")
    assert "extract.weights=x_checkpoint_full.pth" in use
    assert "train.start=x_checkpoint_full.pth" in use
    assert "safe_globals([argparse.Namespace])" in use


def test_validation_after_the_checkpoint_is_not_told(run: RunDir) -> None:
    for step, top1 in ((700, 50.0), (800, 60.0), (900, 70.0)):
        replace(METRICS[1], step=step, values={"top1": top1}).append(run.metrics)
    scores = section(card(run, facts()), "Scores")
    assert ["60.00 %" in scores, "50.00" in scores, "70.00" in scores, "top-5" in scores] == [True, False, False, False]


def test_only_probes_of_these_very_weights_are_told(run: RunDir) -> None:
    for seed, encoder in ((0, "e" * 64), (1, "another's")):
        made_by = replace(PROBE_RESULT.provenance, encoder_digest=encoder)
        replace(PROBE_RESULT, seed=seed, provenance=made_by).write(run.probe("pets", PROBE_RESULT.probe, seed))
    assert "pets" not in section(card(run, facts()), "Scores"), "one seed is of other weights"
    run.probe("pets", PROBE_RESULT.probe, 1).unlink()
    scores = section(card(run, facts()), "Scores")
    assert "| pets |" in scores
    assert f"images: {PROBE_RESULT.provenance.transform}." in scores


def test_scores_say_what_plus_minus_is_and_name_no_path(run: RunDir) -> None:
    write_tested(run, "pets", 0, np.arange(200) >= 20, encoder="e" * 64)
    scores = section(card(run, facts()), "Scores")
    assert "| 90.0 ± 4.2 |" in scores
    assert "± half of the 95 % interval over test images. Seeds differ in" in scores
    predictions_file(run.probe("pets", "exact", 0)).unlink()
    scores = section(card(run, facts()), "Scores")
    assert "| 90.0 |" in scores
    assert "no interval and no test for pets (exact): predictions are missing" in scores
    assert str(run.root) not in scores


def test_training_that_began_from_a_file_names_it_without_its_folder(run: RunDir) -> None:
    start = {"file": "/home/me/secret/w.pth", "sha256": "a" * 64, "with": "encoder"}
    mapped = {"key_map": "/home/me/secret/map.yaml", "key_map_sha256": "b" * 64}
    state = saved(train={"start": "/home/me/secret/w.pth", "key_map": "/home/me/secret/map.yaml"})
    assert "mapped" not in card(run, facts(saved={**state, "start": start}))
    text = card(run, facts(saved={**state, "start": {**start, **mapped}}))
    assert ["`w.pth`" in text, "a" * 64 in text, "start: w.pth" in text] == [True] * 3
    assert ["`map.yaml` mapped its names" in text, "b" * 64 in text, "key_map: map.yaml" in text] == [True] * 3
    assert "secret" not in text


def test_training_on_a_declared_subset_says_so(run: RunDir) -> None:
    whole = card(run, facts())
    part = card(run, facts(saved=saved(data={"subsets": ["digits_seen"]})))
    assert ("subset" in whole, "subset" in part) == (False, True)


@pytest.mark.parametrize(("epochs", "steps", "expected"), [(1, 1, "1 epoch, 1 step."), (2, 16, "2 epochs, 16 steps.")])
def test_length_of_the_training_is_told_in_words(run: RunDir, epochs: int, steps: int, expected: str) -> None:
    state = {**saved(train={"epochs": epochs}), "position": {"epoch": epochs, "step": 0, "global_step": steps}}
    assert expected in card(run, facts(saved=state))


def test_packages_that_are_not_installed_are_left_out(run: RunDir) -> None:
    ENVIRONMENT.append(run.events)
    versions = section(card(run, facts()), "Versions")
    assert ["torch 2.14.1" in versions, "timm" in versions] == [True, False]


def test_devices_and_versions_are_those_of_the_training_and_not_of_a_later_probe(run: RunDir) -> None:
    first = replace(ENVIRONMENT, restart=0, packages={"torch": "2.13.0"})
    on_a_cpu = Node("n9", 1, {}, "Xeon", 4)
    probe = replace(ENVIRONMENT, stage="probe", keys=("probe-dtd",), nodes=(on_a_cpu,), packages={"torch": "1.0"})
    for event in (first, replace(ENVIRONMENT, restart=1), probe):
        event.append(run.events)
    assert section(card(run, facts()), "Versions").strip() == (
        "Python 3.12.1; torch 2.14.1, CUDA 13.0. Devices: 8 x X. Code: commit 0123456789ab (modified), copy c0de.\n\n"
        "Its 2 attempts differ: torch 2.13.0 → 2.14.1."
    )


def test_recipe_holds_what_decides_the_weights_and_no_path_of_the_data(run: RunDir) -> None:
    recipe = section(card(run, facts(saved=saved(data={"root": "/home/me/secret"}))), "Recipe")
    assert [f"\n{key}:" in recipe for key in ("crops", "model", "method", "optimizer", "train")] == [True] * 5
    assert ["secret" in recipe, "extract" in recipe] == [False, False]
