"""Too little memory for the probes is reported before anything is submitted."""

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


def test_sixteen_datasets_fit_into_the_default_memory() -> None:
    assert 4 < require_memory(config(), cluster(16)) <= 16
    assert require_memory(config(), cluster(0)) <= 16, "0: the cluster's default, which is not known here"


def test_too_little_probe_memory_is_refused_with_the_dataset_and_the_memory_it_needs() -> None:
    with pytest.raises(UserError, match=r"inat2018: probe\.memory_gb is 2, .* set probe\.memory_gb=5\.\d or more"):
        require_memory(config("probe.memory_gb=2"), cluster(0))
    require_memory(config("probe.memory_gb=2", "extract.datasets=[pets, dtd]"), cluster(2))


def test_job_with_less_memory_than_its_probe_may_use_is_refused_with_a_setting_that_fits() -> None:
    with pytest.raises(UserError, match=r"the cluster file asks for 8 GB: .* set probe\.memory_gb=8"):
        require_memory(config(), cluster(8))
    require_memory(config("probe.memory_gb=8"), cluster(8))


def test_published_probe_of_a_large_dataset_by_l_bfgs_is_refused() -> None:
    """scikit-learn needs all of ImageNet-1K in memory, several times."""
    with pytest.raises(UserError, match="in1k"):
        require_memory(config("probe.kinds=[published]", "probe.sgd={in1k: false}"), cluster(0))
    require_memory(config("probe.kinds=[published]"), cluster(0))


def test_datasets_without_official_counts_are_not_checked() -> None:
    assert require_memory(config("extract.datasets=[mine]", "data.folders={mine: /nowhere}"), cluster(1)) == 0


def test_memory_depends_on_the_width_of_the_encoder() -> None:
    small = ("extract.datasets=[inat2018]", "probe.memory_gb=3")
    require_memory(config(*small, "model.encoder=vit_b_16"), cluster(0))
    with pytest.raises(UserError, match=r"probe exact of inat2018: probe\.memory_gb is 3"):
        require_memory(config(*small, "model.encoder=resnet50"), cluster(0))


@pytest.mark.slow
def test_too_little_memory_for_a_wide_timm_encoder_is_refused() -> None:
    wide = ("extract.datasets=[inat2018]", "model.encoder=timm/resnetv2_50x3_bit")
    with pytest.raises(UserError, match=r"probe exact of inat2018: probe\.memory_gb is 7"):
        require_memory(config(*wide, "probe.memory_gb=7"), cluster(0))
    require_memory(config(*wide, "probe.memory_gb=16"), cluster(0))
