"""The jobs of a chain, as a dry run prints them: arrays, dependencies, how many elements run at once."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from jobs.cli import main
from trex.features.store import Contents, write_features
from trex.records.feature_provenance import FeatureProvenance

CLUSTER = """
kind: slurm
max_array_size: {size}
probe: {{max_parallel: {parallel}}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, without Slurm on PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "no_slurm"))
    return tmp_path


def planned(
    home: Path, capsys: pytest.CaptureFixture[str], *settings: str, parallel: int = 0, size: int = 0
) -> list[tuple[str, str, str]]:
    """Return the stage, the array with its limit, and the dependency of each job of a complete chain."""
    (home / "recipe.yaml").write_text("extract: {datasets: [dtd, pets, eurosat, flowers], resize: 8, crop: 8}\n")
    (home / "cluster.yaml").write_text(CLUSTER.format(size=size, parallel=parallel))
    words = ["run", "recipe.yaml", *settings, "--cluster", "cluster.yaml", "--dry-run"]
    assert main(words) == 0
    found = []
    for script in capsys.readouterr().out.split("# ---- would be submitted: ")[1:]:
        options = dict(re.findall(r"^#SBATCH --([a-z-]+)='?([^'\n]*)", script, re.MULTILINE))
        found.append(
            (script.partition("-")[0].partition("\n")[0], options.get("array", ""), options.get("dependency", ""))
        )
    return found


def make_features(home: Path, *datasets: str) -> None:
    """Write feature files of two images, as the recipe's run would extract them from pixels."""
    transform = "published, other sizes: resize 8 bicubic, center crop 8, mean 0 0 0, std 1 1 1"
    for name in datasets:
        for split in ("trainval", "test"):
            about = FeatureProvenance(
                "run", name, split, "split", "pixels", "raw pixels", transform, "float32", False, {}
            )
            path = home / "runs" / "run" / "features" / name / f"{split}.h5"
            features, labels = np.zeros((2, 192), np.float32), np.arange(2)
            write_features(path, [features], Contents(features.shape, labels, ["a", "b"], ("a", "b"), about))


def test_probes_of_all_seeds_are_one_array_that_matches_the_extraction_array(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(home, capsys, parallel=3) == [
        ("train", "", ""),
        ("extract", "0-3%4", "afterok:<train>"),
        ("probe", "0-3%3", "aftercorr:<extract-dtd>"),
        ("report", "", "afterany:<train>:<extract-dtd>:<probe-dtd>"),
    ]


def test_published_probes_have_one_array_per_seed_and_they_share_the_limit(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = planned(home, capsys, "probe.kinds=[published]", "probe.seeds=3", parallel=7)
    assert [job[1:] for job in jobs if job[0] == "probe"] == [
        ("0-3%2", "aftercorr:<extract-dtd>"),
        ("0-3%2", "aftercorr:<extract-dtd>"),
        ("0-3%3", "aftercorr:<extract-dtd>"),
    ]


def test_number_of_seeds_per_job_can_be_chosen(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = planned(home, capsys, "probe.seeds=5", "probe.seeds_per_job=2")
    assert [job[1] for job in jobs if job[0] == "probe"] == ["0-3%4"] * 3


def test_probes_whose_features_exist_wait_for_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_features(home, "pets", "flowers")
    jobs = planned(home, capsys, "extract.weights=pixels", parallel=3)
    assert jobs[:3] == [
        ("extract", "0-1%2", ""),
        ("probe", "0-1%1", "aftercorr:<extract-dtd>"),
        ("probe", "0-1%2", ""),
    ]


def test_arrays_that_are_too_large_are_split_and_each_part_waits_for_its_own_extraction(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(home, capsys, "extract.weights=pixels", size=3)[:-1] == [
        ("extract", "0-2%3", ""),
        ("extract", "", ""),
        ("probe", "0-2%3", "aftercorr:<extract-dtd>"),
        ("probe", "", "afterok:<extract-flowers>"),
    ]


def test_without_arrays_jobs_take_turns_to_keep_the_limit(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = planned(home, capsys, "extract.weights=pixels", size=1, parallel=2)
    assert [job[1:] for job in jobs if job[0] == "probe"] == [
        ("", "afterok:<extract-dtd>"),
        ("", "afterok:<extract-pets>"),
        ("", "afterok:<extract-eurosat>,afterany:<probe-dtd>"),
        ("", "afterok:<extract-flowers>,afterany:<probe-pets>"),
    ]


def test_finished_work_is_not_submitted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_features(home, "dtd", "pets", "eurosat", "flowers")
    jobs = planned(home, capsys, "extract.weights=pixels")
    assert [job[0] for job in jobs] == ["probe", "report"]
