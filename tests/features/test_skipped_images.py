"""Features without broken images: no row for them, their names in the file, and a mark in every result."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.features.conftest import command, damaged, make_features
from trex.config import Config, load
from trex.errors import UserError
from trex.features.store import open_features
from trex.interruption import StopRequest
from trex.probing.probe import probe
from trex.records.feature_provenance import names_digest
from trex.records.probe_result import ProbeResult

SKIP = "data.broken_images=skip"


@pytest.fixture
def broken(photos: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """A copy of the photographs with three cut files in trainval; and the names of these."""
    paths = damaged(photos, tmp_path / "data")
    return tmp_path / "data", sorted(str(path.relative_to(tmp_path / "data/photos")) for path in paths)


def test_broken_images_have_no_row_and_all_others_have_their_usual_features(setup, broken) -> None:
    root, names = broken
    run, config = setup("skipped", f"data.root={root}", SKIP)
    make_features(run, config)
    whole, same = setup("whole")
    make_features(whole, same)
    found, all_images = (open_features(one.features("photos", "trainval")) for one in (run, whole))
    kept = [row for row, name in enumerate(all_images.names) if name not in names]
    assert found.names == [all_images.names[row] for row in kept]
    assert np.array_equal(found.labels, all_images.labels[kept])
    assert np.array_equal(found.features, all_images.features[kept])
    assert list(found.skipped) == names
    assert (found.provenance.skipped, found.provenance.skipped_digest) == (3, names_digest(names))
    tests = open_features(run.features("photos", "test"))
    assert (tests.skipped, tests.provenance.skipped, tests.provenance.skipped_digest) == ((), 0, "")
    with h5py.File(run.features("photos", "trainval")) as file:
        assert file["skipped"].asstr()[:].tolist() == names


def test_finished_blocks_are_kept_when_the_user_decides_to_skip(setup, broken) -> None:
    root, names = broken
    run, config = setup("run", f"data.root={root}")
    with pytest.raises(UserError, match=r"data\.broken_images=skip"):
        make_features(run, config)
    kept = {path: path.stat().st_mtime_ns for path in run.root.glob("features/photos/.*/*.npy")}
    assert len(kept) == 3
    split_config = load(run.config, Config, [SKIP])
    times = {}

    class Watch(StopRequest):
        def __bool__(self) -> bool:
            times.update({path: path.stat().st_mtime_ns for path in kept if path.exists()})
            return False

    make_features(run, split_config, Watch())
    assert times == kept
    assert list(open_features(run.features("photos", "trainval")).skipped) == names


def test_features_without_broken_images_are_refused_where_none_may_be_skipped(setup, broken) -> None:
    root, _ = broken
    run, config = setup("run", f"data.root={root}", SKIP)
    make_features(run, config)
    with pytest.raises(UserError, match=r"data\.broken_images: refuse and 3 skipped images[\s\S]*delete this file"):
        make_features(run, load(run.config, Config, ["data.broken_images=refuse"]))


def test_missing_file_ends_the_extraction_also_where_broken_images_are_skipped(setup, broken) -> None:
    root, _ = broken
    run, config = setup("run", f"data.folders={{photos: {root}/photos}}", SKIP)
    (root / "photos/train/class0/002.jpg").unlink()
    (root / "photos/train/class0/002.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(UserError, match=r"002\.jpg: there is no such file"):
        make_features(run, config)


def test_split_without_a_readable_image_is_an_error(setup, broken) -> None:
    root, _ = broken
    for path in (root / "photos/val").rglob("*.jpg"):
        path.write_bytes(b"")
    run, config = setup("run", f"data.root={root}", SKIP)
    with pytest.raises(UserError, match="photos test: no image can be read"):
        make_features(run, config)


@pytest.mark.slow
def test_content_with_skipped_images_is_the_same_with_any_number_of_processes(setup, broken) -> None:
    root, names = broken
    digests = set()
    for processes in (1, 2):
        run, _ = setup(f"by{processes}", f"data.root={root}", SKIP)
        done = subprocess.run(command(run, processes), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 broken images skipped" in done.stdout
        found = open_features(run.features("photos", "trainval"))
        assert list(found.skipped) == names
        digests.add(found.digest)
    assert len(digests) == 1


def test_each_result_has_the_number_of_skipped_images(setup, broken) -> None:
    root, names = broken
    shutil.copyfile(root / "photos" / names[0], root / "photos/val/class0/000.jpg")
    run, config = setup("run", f"data.root={root}", SKIP, "extract.weights=pixels", "probe.kinds=[knn1]")
    make_features(run, config)
    probe(run, config, "photos", [0], StopRequest())
    result = ProbeResult.read(run.probe("photos", "knn1", 0))
    assert (result.skipped.trainval, result.skipped.test) == (3, 1)
    assert (result.counts.train, result.counts.test) == (41, 9)
    assert result.provenance.test_images != open_features(run.features("photos", "test")).provenance.split_digest
    assert result.skipped.digest == f"{names_digest(names)}-{names_digest(['val/class0/000.jpg'])}"
