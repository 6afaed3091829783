"""Paths of a run, and what single records refuse besides wrong types."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.records.examples import FEATURE_INDEX, FEATURES, METRICS, PROBE_RESULT, STATE
from trex.config import Config, load
from trex.errors import UserError
from trex.files import sha256, write_text
from trex.records.base import RecordError
from trex.records.job_state import JobState
from trex.records.manifest import MANIFEST, Manifest, checkpoint_folders, checkpoint_name, newest_manifest
from trex.records.manifest import STATE as STATE_FILE
from trex.records.metrics import MetricsLine
from trex.records.probe_result import ProbeResult, is_made_from
from trex.records.run_dir import RunDir, dataset_folder

# ---- paths


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", "a b", "x" * 65, "torchvision:../x", "a\nb"])
def test_name_that_would_leave_the_run_folder_is_refused(tmp_path: Path, name: str) -> None:
    run = RunDir(tmp_path)
    for path in (lambda: run.features(name, "test"), lambda: run.probe(name, "exact", 0), lambda: run.probes(name)):
        with pytest.raises(UserError):
            path()
    with pytest.raises(UserError):
        run.features("dtd", name)
    with pytest.raises(UserError):
        run.probe("dtd", name, 0)


def test_only_the_colon_of_torchvision_is_exchanged() -> None:
    assert dataset_folder("torchvision:CIFAR10") == "torchvision_CIFAR10"
    assert dataset_folder("my-birds_2.0") == "my-birds_2.0"
    with pytest.raises(UserError):
        dataset_folder("timm:x")


def test_run_of_a_config_is_an_absolute_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert RunDir.of(load(None, Config, ["name=a"])).root == tmp_path / "runs" / "a"
    assert RunDir.of(load(None, Config, ["name=a", "runs=~/mine"])).root == tmp_path / "home" / "mine" / "a"


def test_runs_below_a_folder_are_those_with_a_config_by_name(tmp_path: Path) -> None:
    for name in ("b", "a", "c/inner"):
        write_text(tmp_path / name / "config.yaml", "")
    (tmp_path / "empty").mkdir()
    assert [run.name for run in RunDir.below(tmp_path)] == ["a", "b"]
    assert RunDir.below(tmp_path / "nowhere") == []


# ---- checkpoints


def checkpoint(folder: Path, epoch: int, content: str = "state", **changes: object) -> Path:
    path = folder / checkpoint_name(epoch, 0)
    write_text(path / STATE_FILE, content)
    manifest = Manifest(epoch, len(content), sha256(path / STATE_FILE), milestone=False, finished=False)
    replace(manifest, **changes).write(path / MANIFEST)  # type: ignore[arg-type]
    return path


def test_checkpoints_are_listed_newest_first_and_nothing_else(tmp_path: Path) -> None:
    made = [checkpoint(tmp_path, epoch) for epoch in (9, 10, 12345)]
    for name in (".unfinished-epoch-0011-step-00000000-7", "epoch-0011-step-00000000.damaged-0", "epoch-11-step-0"):
        (tmp_path / name).mkdir()
    assert checkpoint_folders(tmp_path) == made[::-1]
    assert checkpoint_folders(tmp_path / "nowhere") == []


def test_newest_checkpoint_is_one_whose_state_has_the_size_of_its_manifest(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 2, bytes=99)
    write_text(checkpoint(tmp_path, 3) / MANIFEST, "{")
    (checkpoint(tmp_path, 4) / STATE_FILE).unlink()
    found = newest_manifest(tmp_path)
    assert found is not None
    assert (found[0], found[1].step) == (whole, 1)


def test_content_of_a_state_is_only_compared_where_it_is_asked_for(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path, 1)
    other = checkpoint(tmp_path, 2, sha256="0" * 64)
    for read_states, expected in ((False, other), (True, whole)):
        found = newest_manifest(tmp_path, read_states)
        assert found is not None
        assert found[0] == expected


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "g" * 64, "A" * 64, "0" * 64 + "\n"])
def test_digest_that_is_none_is_damage(tmp_path: Path, digest: str) -> None:
    text = json.dumps({**Manifest(1, 2, "0" * 64, milestone=False, finished=False).to_json(), "sha256": digest})
    with pytest.raises(RecordError, match="sha256"):
        Manifest.parse(text.encode(), "manifest.json")


# ---- job states and metrics


@pytest.mark.parametrize("code", [5, -9, 137, 2**40])
def test_exit_code_that_no_job_ends_with_is_damage(code: int) -> None:
    with pytest.raises(RecordError, match=str(code)):
        JobState.parse(json.dumps({**STATE.to_json(), "code": code}).encode(), "train.state.json")


def test_damaged_state_is_none_only_for_those_that_overwrite_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_text(run.state("train"), "{")
    assert JobState.of_or_none(run, "train") is None
    with pytest.raises(RecordError, match=str(run.state("train"))):
        JobState.of(run, "train")


@pytest.mark.parametrize(
    ("key", "value"),
    [("step", -1), ("epoch", -0.5), ("epoch", 1e10), ("time", 1e12), ("phase", "test"), ("values", {"loss": 1e31})],
)
def test_metrics_outside_of_what_can_be_shown_are_damage(key: str, value: object) -> None:
    with pytest.raises(RecordError, match=f"metrics.jsonl:7: {key}"):
        MetricsLine.from_json({**METRICS[0].to_json(), key: value}, "metrics.jsonl:7")


# ---- probe results


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"per_class": [0.5]}, "2 classes"),
        ({"per_class": [0.5, None, None]}, "2 classes"),
        ({"confusion": [[0, 2, 1]]}, "[0, 2, 1]"),
        ({"confusion": [[-1, 0, 1]]}, "[-1, 0, 1]"),
        ({"confusion": [[0, 0, 0]]}, "[0, 0, 0]"),
        ({"confusion": [[1, 0, 1]]}, "class 1"),
        ({"top1": 1.5}, "test.top1"),
    ],
)
def test_scores_that_do_not_fit_the_classes_are_damage(change: dict[str, object], said: str) -> None:
    value = PROBE_RESULT.to_json()
    value["test"] = {**value["test"], **change}  # type: ignore[dict-item]
    with pytest.raises(RecordError) as caught:
        ProbeResult.from_json(value, "seed_0.json")
    assert said in str(caught.value)


def test_result_is_made_from_its_own_provenance_and_no_other(tmp_path: Path) -> None:
    path, provenance = tmp_path / "seed_0.json", PROBE_RESULT.provenance
    assert not is_made_from(path, provenance), "there is no such file"
    path.with_suffix(".npz").write_bytes(b"predictions")
    result = replace(PROBE_RESULT, predictions=sha256(path.with_suffix(".npz")))
    result.write(path)
    assert is_made_from(path, provenance)
    for field in ("trainval_digest", "test_digest", "test_images", "encoder_digest", "weights"):
        assert not is_made_from(path, replace(provenance, **{field: "another"}))
    for field in ("transform", "dtype", "fitted_by"):
        assert not is_made_from(path, replace(provenance, **{field: "another"}))
    assert not is_made_from(path, replace(provenance, normalized=not provenance.normalized))
    path.write_text(path.read_text().replace('"format": 4', '"format": 3'))
    assert not is_made_from(path, provenance)


def test_result_without_its_intact_predictions_does_not_count(tmp_path: Path) -> None:
    path, provenance = tmp_path / "seed_0.json", PROBE_RESULT.provenance
    path.with_suffix(".npz").write_bytes(b"predictions")
    replace(PROBE_RESULT, predictions=sha256(path.with_suffix(".npz"))).write(path)
    assert is_made_from(path, provenance)
    path.with_suffix(".npz").write_bytes(b"predictiont")
    assert not is_made_from(path, provenance)
    path.with_suffix(".npz").unlink()
    assert not is_made_from(path, provenance)


def test_key_of_a_provenance_differs_with_each_field() -> None:
    provenance = PROBE_RESULT.provenance
    assert replace(provenance).key == provenance.key
    assert replace(provenance, fitted_by="another").key != provenance.key
    assert replace(provenance, normalized=not provenance.normalized).key != provenance.key


# ---- index of a feature file


def test_hdf5_attributes_hold_the_provenance_as_text_numbers_and_booleans() -> None:
    found = FEATURE_INDEX.hdf5_attributes()
    assert (found["format"], found["content_sha256"], found["split"]) == (6, FEATURE_INDEX.digest, "trainval")
    assert found["versions"] == '{"h5py": "3.16"}'


def test_names_of_runs_weights_and_versions_do_not_make_other_features() -> None:
    same = replace(FEATURES, run="b", weights="renamed.pth", versions={}, comparable=False)
    assert FEATURES.differences(same) == []
    for field in ("dataset", "split_digest", "encoder_digest", "transform"):
        (found,) = FEATURES.differences(replace(FEATURES, **{field: "another"}))
        assert [field in found, "another" in found] == [True, True]
