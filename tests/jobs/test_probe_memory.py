"""Memory of the probes, found to be too little before anything is queued."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.plan.cluster import Cluster, StageResources
from jobs.plan.memory import require_memory
from trex.config import Config, load
from trex.errors import UserError


def config(*overrides: str) -> Config:
    return load(None, Config, overrides)


def cluster(gigabytes: int) -> Cluster:
    return replace(Cluster(), probe=StageResources(memory_gb=gigabytes))


def test_sixteen_sets_fit_into_the_defaults() -> None:
    assert 4 < require_memory(config(), cluster(16)) <= 16
    assert require_memory(config(), cluster(0)) <= 16, "0: the cluster's default, which nobody here knows"


def test_probe_that_cannot_be_fitted_in_so_little_names_the_set_and_what_would_do() -> None:
    with pytest.raises(UserError, match=r"inat2018: probe\.memory_gb is 2, .* set probe\.memory_gb=4\.\d or more"):
        require_memory(config("probe.memory_gb=2"), cluster(0))
    require_memory(config("probe.memory_gb=2", "extract.datasets=[pets, dtd]"), cluster(2))


def test_job_that_asks_for_less_than_its_probe_may_take_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"the cluster file asks for 8 GB: .* set probe\.memory_gb=8"):
        require_memory(config(), cluster(8))
    require_memory(config("probe.memory_gb=8"), cluster(8))


def test_published_probe_of_a_large_dataset_by_l_bfgs_is_refused() -> None:
    """scikit-learn needs all of ImageNet-1K in memory, several times."""
    with pytest.raises(UserError, match="in1k"):
        require_memory(config("probe.kinds=[published]", "probe.sgd={in1k: false}"), cluster(0))
    require_memory(config("probe.kinds=[published]"), cluster(0))


def test_sets_without_official_counts_are_left_to_the_job() -> None:
    assert require_memory(config("extract.datasets=[mine]", "data.folders={mine: /nowhere}"), cluster(1)) == 0


def test_memory_depends_on_how_wide_the_encoder_is() -> None:
    small = ("extract.datasets=[inat2018]", "probe.memory_gb=3")
    require_memory(config(*small, "model.encoder=vit_b_16"), cluster(0))
    with pytest.raises(UserError, match=r"probe exact of inat2018: probe\.memory_gb is 3"):
        require_memory(config(*small, "model.encoder=resnet50"), cluster(0))


@pytest.mark.slow
def test_memory_for_the_features_of_a_wide_encoder_of_timm_is_found_to_be_too_little() -> None:
    wide = ("extract.datasets=[inat2018]", "model.encoder=timm/resnetv2_50x3_bit")
    with pytest.raises(UserError, match=r"probe exact of inat2018: probe\.memory_gb is 7"):
        require_memory(config(*wide, "probe.memory_gb=7"), cluster(0))
    require_memory(config(*wide, "probe.memory_gb=16"), cluster(0))
