"""Kinds of probes: name, memory and provenance, which are known before anything is fitted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trex.config.probe_kinds import PROBE_KINDS
from trex.probing.kind import kind_of
from trex.probing.memory import Size
from trex.probing.treatment import Treatment
from trex.records.feature_provenance import FeatureIndex, FeatureProvenance

NAMES = [form.replace("<shots>", "5").replace("<k>", "20").replace("<temperature>", "0.1") for form in PROBE_KINDS]
PETS = Size(3680, 3669, 2048, 37)
PLAIN = Treatment(normalize=False, sgd=False)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_gives_a_kind_with_that_name_and_a_plausible_memory_need(name: str) -> None:
    kind = kind_of(name)
    assert kind.name == name
    assert kind.fitted_by(PLAIN)
    assert 7e8 < kind.least_bytes(PETS, PLAIN) <= kind.used_bytes(PETS, PLAIN, 16e9) <= 16e9


def test_number_in_a_name_becomes_a_field_of_the_kind() -> None:
    assert [getattr(kind_of(name), "shots", "none") for name in ("exact", "exact-5shot", "published-12shot")] == [
        None, 5, 12,
    ]  # fmt: skip
    assert [(kind_of(name).k, kind_of(name).temperature) for name in ("knn20", "knn200-t0.1", "knn1-t2")] == [
        (20, 0.07), (200, 0.1), (1, 2.0),
    ]  # fmt: skip


def test_only_kinds_that_differ_between_seeds_run_more_than_one() -> None:
    once = [name for name in NAMES if [kind_of(name).runs(seed) for seed in range(3)] == [True, False, False]]
    assert once == ["knn20", "knn20-t0.1"]
    assert all(kind_of(name).runs(2) for name in NAMES if name not in once)


def test_only_seeds_of_published_probes_share_no_work() -> None:
    separate = [name for name in NAMES if not kind_of(name).seeds_share_work]
    assert separate == ["published", "published-5shot"]


def test_published_few_shot_probe_needs_memory_for_its_few_images_only() -> None:
    few, many = kind_of("published-5shot"), kind_of("published")
    assert few.least_bytes(PETS, PLAIN) < many.least_bytes(PETS, PLAIN)
    assert kind_of("published-999999shot").least_bytes(PETS, PLAIN) == many.least_bytes(PETS, PLAIN)


def test_provenance_names_the_features_and_how_they_are_treated_and_fitted() -> None:
    split = ("run", "pets", "trainval", "s", "encoder", "weights", "resize", "float16", True, {})
    trainval, test = (FeatureIndex(FeatureProvenance(*split), digest, {}) for digest in ("a" * 64, "b" * 64))
    found = kind_of("exact").provenance(PLAIN, trainval, test)
    assert (found.trainval_digest, found.test_digest, found.encoder_digest) == ("a" * 64, "b" * 64, "encoder")
    assert (found.dtype, found.normalized, found.fitted_by) == ("float16", False, "exact solver 6")
    large = kind_of("published").provenance(Treatment(normalize=True, sgd=True), trainval, test)
    assert (large.normalized, large.fitted_by) == (True, "SGD, search 2")
    assert kind_of("knn20").provenance(PLAIN, trainval, test).normalized, "by cosine similarity"


def test_kinds_can_be_created_without_importing_torch_numpy_or_h5py() -> None:
    code = (
        "import sys; from trex.config import Config; from trex.probing.kind import kinds_of, kind_of\n"
        f"kinds_of(Config().probe, 'dtd'); [kind_of(name) for name in {NAMES}]\n"
        "print(sorted({'torch', 'numpy', 'h5py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
