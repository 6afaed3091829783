"""The missing work of a run: results of other settings never count as done and are never mixed with new ones."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from jobs.plan.runs import save_config
from jobs.plan.spec import STAGES, Item, Stage
from jobs.plan.stages import plan, stages_of
from tests.feature_files import relabel as relabel_file
from trex.config import Config, load
from trex.distributed import Ranks
from trex.errors import ResumeRefused, UserError
from trex.features.extract import extract
from trex.features.origin import describe_transform
from trex.features.source import state_digest
from trex.features.store import open_features
from trex.files import sha256
from trex.interruption import StopRequest
from trex.model.encoder import build_encoder
from trex.probing.probe import probe
from trex.records.manifest import MANIFEST, Manifest
from trex.records.run_dir import RunDir

TEXT = """
name: evaluated
data: {dataset: digits_seen, workers: 0}
model: {encoder: resnet18}
extract: {datasets: [digits_unseen, digits_seen], weights: pixels, resize: 8, crop: 8}
probe: {seeds: 2, kinds: [exact, knn5]}
"""


def configured(home: Path, *overrides: str) -> tuple[RunDir, Config]:
    path = home / "config.yaml"
    path.write_text(TEXT)
    config = load(path, Config, [f"runs={home}/runs", *overrides])
    return RunDir.of(config), config


@pytest.fixture(scope="module")
def evaluated_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has all its features and probe results."""
    home = tmp_path_factory.mktemp("evaluated")
    run, config = configured(home)
    save_config(run, config)
    for name in config.extract.datasets:
        extract(run, config, name, Ranks(), StopRequest())
        probe(run, config, name, range(2), StopRequest())
    return home


def planned(run: RunDir, config: Config, stages: tuple[Stage, ...] = STAGES) -> dict[str, tuple[Item, ...]]:
    return {spec.stage: spec.items for spec in plan(run, config, stages).specs}


def checkpoint(run: RunDir, name: str, finished: bool) -> str:
    """Write a checkpoint that matches its manifest. Returns the weights label of features made from it."""
    folder = run.checkpoints / name
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_text(name)
    digest = sha256(folder / "checkpoint.pt")
    Manifest(7, len(name), digest, milestone=False, finished=finished).write(folder / MANIFEST)
    return f"{name}, SHA-256 {digest[:16]}"


def relabel(run: RunDir, config: Config, dataset: str, weights: str) -> None:
    """Change the labels in the feature files of a dataset: the weights, and the transform of a config."""
    for split in ("trainval", "test"):
        relabel_file(run.features(dataset, split), weights=weights, transform=describe_transform(config))


def test_finished_run_plans_only_the_report(evaluated_home: Path) -> None:
    run, config = configured(evaluated_home)
    assert planned(run, config) == {"report": ()}
    assert plan(run, config, STAGES).done == ("train", "extract", "probe")


@pytest.mark.parametrize("setting", ["extract.resize=9", "extract.dtype=float16"])
@pytest.mark.parametrize("command", ["run", "extract"])
def test_features_of_other_settings_are_refused_before_anything_is_submitted(
    evaluated_home: Path, setting: str, command: str
) -> None:
    run, config = configured(evaluated_home, setting)
    with pytest.raises(UserError, match=r"trainval\.h5 holds features made by something else.*\n.*\n.*name="):
        plan(run, config, stages_of(command))


def test_features_of_raw_pixels_name_no_encoder_and_do_not_depend_on_it(evaluated_home: Path) -> None:
    run, config = configured(evaluated_home, "model.encoder=resnet34")
    assert planned(run, config) == {"report": ()}
    made_by = open_features(run.features("digits_unseen", "test")).provenance
    assert made_by.transform == "published, other sizes: resize 8 bicubic, center crop 8, mean 0 0 0, std 1 1 1"


def test_features_of_another_encoder_are_refused(tmp_path: Path) -> None:
    run, config = configured(tmp_path, "extract.datasets=[digits_unseen]", "extract.weights=untrained")
    extract(run, config, "digits_unseen", Ranks(), StopRequest())
    _, deeper = configured(
        tmp_path, "extract.datasets=[digits_unseen]", "extract.weights=untrained", "model.encoder=resnet34"
    )
    assert planned(run, config, ("extract",)) == {}
    with pytest.raises(UserError, match=r"transform: published.*resnet34 and published.*resnet18"):
        plan(run, deeper, ("extract",))


def test_run_cannot_change_to_other_weights(evaluated_home: Path) -> None:
    run, config = configured(evaluated_home, "extract.weights=untrained")
    with pytest.raises(ResumeRefused, match=r"extract\.weights: was pixels, is now untrained"):
        save_config(run, config)


def test_changed_content_of_the_weights_file_is_detected(tmp_path: Path) -> None:
    weights = tmp_path / "encoder.pth"
    torch.manual_seed(0)
    torch.save(build_encoder("resnet18").state_dict(), weights)
    run, config = configured(tmp_path, f"extract.weights={weights}", "extract.datasets=[digits_unseen]")
    extract(run, config, "digits_unseen", Ranks(), StopRequest())
    assert planned(run, config, ("extract",)) == {}
    torch.save(build_encoder("resnet18").state_dict(), weights)
    with pytest.raises(UserError, match=r"weights: encoder\.pth, SHA-256 \w{16} and encoder\.pth, SHA-256 \w{16}"):
        plan(run, config, ("extract",))


def test_mapping_file_is_part_of_the_provenance_and_its_change_is_detected(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = build_encoder("resnet18").state_dict()
    torch.save({f"net.{key}": value for key, value in state.items()}, tmp_path / "encoder.pth")
    (tmp_path / "map.yaml").write_text("'net.': ''\n")
    words = (f"extract.weights={tmp_path}/encoder.pth", f"extract.key_map={tmp_path}/map.yaml")
    run, config = configured(tmp_path, *words, "extract.datasets=[digits_unseen]")
    extract(run, config, "digits_unseen", Ranks(), StopRequest())
    made_by = open_features(run.features("digits_unseen", "test")).provenance
    assert re.fullmatch(r"encoder\.pth, SHA-256 \w{16}; names mapped by map\.yaml, SHA-256 \w{16}", made_by.weights)
    assert made_by.encoder_digest == state_digest(state)
    assert planned(run, config, ("extract",)) == {}
    (tmp_path / "map.yaml").write_text("'net.': ''  # the same\n")
    with pytest.raises(UserError, match=r"weights: encoder\.pth, SHA-256 \w{16}; names mapped by map\.yaml"):
        plan(run, config, ("extract",))


def test_features_of_an_earlier_checkpoint_are_not_mixed_with_newer_ones(tmp_path: Path) -> None:
    run, config = configured(tmp_path, "extract.datasets=[digits_unseen]")
    extract(run, config, "digits_unseen", Ranks(), StopRequest())
    _, trained = configured(tmp_path, "extract.datasets=[digits_unseen]", "extract.weights=trained")
    relabel(run, trained, "digits_unseen", checkpoint(run, "epoch-0003-step-00000000", finished=False))
    assert planned(run, trained, ("extract",)) == {}
    with pytest.raises(UserError, match="weights: the training, when it has finished and epoch-0003"):
        plan(run, trained, STAGES)

    label = checkpoint(run, "epoch-0004-step-00000000", finished=True)
    with pytest.raises(UserError, match=f"weights: {label} and epoch-0003"):
        plan(run, trained, ("extract",))
    relabel(run, trained, "digits_unseen", label)
    assert set(planned(run, trained)) == {"probe", "report"}


@pytest.mark.parametrize("damage", ["half of it", "another byte"])
def test_features_of_the_checkpoint_before_a_damaged_one_are_accepted(tmp_path: Path, damage: str) -> None:
    settings = ("extract.datasets=[digits_unseen]", "extract.weights=trained")
    run, config = configured(tmp_path, *settings)
    label = checkpoint(run, "epoch-0099-step-00000000", finished=True)
    checkpoint(run, "epoch-0100-step-00000000", finished=True)
    _, pixels = configured(tmp_path, *settings[:1])
    extract(run, pixels, "digits_unseen", Ranks(), StopRequest())
    relabel(run, config, "digits_unseen", label)
    with pytest.raises(UserError, match=r"weights: epoch-0100"):
        plan(run, config, ("extract",))
    state = run.checkpoints / "epoch-0100-step-00000000" / "checkpoint.pt"
    content = state.read_text()
    state.write_text(content[:9] if damage == "half of it" else content[:-1] + "x")
    assert planned(run, config, ("extract",)) == {}


def test_missing_features_are_extracted_again_together_with_their_probes(evaluated_home: Path, tmp_path: Path) -> None:
    shutil.copytree(evaluated_home, tmp_path / "home")
    run, config = configured(tmp_path / "home")
    run.features("digits_seen", "test").unlink()
    assert planned(run, config) == {"extract": (Item("digits_seen"),), "probe": (Item("digits_seen"),), "report": ()}
    assert planned(run, config, ("probe",)) == {}, "results stay valid when features are deleted to free disk space"
    extract(run, config, "digits_seen", Ranks(), StopRequest())
    assert planned(run, config) == {"report": ()}, "the same features: nothing to do"


def test_results_of_other_features_or_another_treatment_are_computed_again(
    evaluated_home: Path, tmp_path: Path
) -> None:
    shutil.copytree(evaluated_home, tmp_path / "home")
    run, config = configured(tmp_path / "home")
    path = run.probe("digits_unseen", "exact", 1)
    result = json.loads(path.read_text())
    result["provenance"]["trainval_digest"] = "0" * 64
    path.write_text(json.dumps(result))
    assert planned(run, config, ("probe",)) == {"probe": (Item("digits_unseen"),)}
    path.write_text("{")
    assert planned(run, config, ("probe",)) == {"probe": (Item("digits_unseen"),)}, (
        "an unreadable result does not count"
    )

    _, other = configured(tmp_path / "home", "probe.normalize={digits_seen: true}")
    assert planned(run, other, ("probe",)) == {"probe": (Item("digits_unseen"), Item("digits_seen"))}
    probe(run, other, "digits_unseen", range(2), StopRequest())
    probe(run, other, "digits_seen", range(2), StopRequest())
    assert planned(run, other, ("probe",)) == {}
