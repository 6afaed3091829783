"""The estimated time of the `exact` probes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from jobs.plan.cluster import Cluster, StageResources
from jobs.plan.memory import probe_cost
from trex.config import Config, load
from trex.errors import UserError
from trex.probing.cost import exact_cost
from trex.probing.memory import Size

IN1K = Size(1281167, 50000, 2048, 1000)


def test_time_grows_with_images_classes_and_seeds() -> None:
    one = exact_cost(IN1K, 64e9)
    assert one.hours(5) == pytest.approx(5 * one.seed + one.fit)
    for smaller in (replace(IN1K, trainval=640000), replace(IN1K, classes=500)):
        assert 1.8 < one.seed / exact_cost(smaller, 64e9).seed < 2.2


def test_processor_without_bfloat16_and_features_in_the_file_take_longer() -> None:
    fast = exact_cost(IN1K, 64e9).hours(5)
    assert fast < exact_cost(IN1K, 16e9).hours(5) < exact_cost(IN1K, 6e9).hours(5)
    assert 1.4 < exact_cost(IN1K, 64e9, bfloat16=False).hours(5) / fast < 2.2


def test_check_states_hours_and_the_memory_that_is_fastest() -> None:
    config = load(None, Config, ["extract.datasets=[in1k, pets]"])
    text = probe_cost(config, Cluster())
    assert "5 seeds of exact take about" in text
    assert "core-hours, in1k" in text
    assert "probe.memory_gb=" in text
    assert "probe.memory_gb" not in probe_cost(load(None, Config, ["extract.datasets=[pets]"]), Cluster())
    gpu = replace(Cluster(), probe=StageResources(gpus_per_node=1))
    assert "GPU-hours" in probe_cost(config, gpu)
    assert "core-hours" in probe_cost(load(None, Config, ["extract.datasets=[in1k]", "probe.device=cpu"]), gpu)


def test_nothing_is_stated_without_official_counts_or_exact_probes() -> None:
    assert probe_cost(load(None, Config, ["extract.datasets=[mine]"]), Cluster()) == ""
    assert probe_cost(load(None, Config, ["extract.datasets=[in1k]", "probe.kinds=[knn20]"]), Cluster()) == ""


def test_too_little_memory_is_the_error_of_the_probe() -> None:
    with pytest.raises(UserError, match=r"probe\.memory_gb"):
        probe_cost(load(None, Config, ["extract.datasets=[in1k]", "probe.memory_gb=1"]), Cluster())


def test_estimate_imports_neither_torch_nor_numpy() -> None:
    program = "import sys, trex.probing.cost; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
