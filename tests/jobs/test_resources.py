"""What `trex check` says about the CPUs and the memory of training and extraction."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.plan.cluster import Cluster, StageResources
from jobs.plan.resources import Needs, cpu_warning, require_memory_for
from tests.disks import small_disk
from trex.config import Config, load
from trex.datasets.registry import load_split
from trex.errors import UserError
from trex.loading import shared_memory
from trex.loading.training import TrainingBatches
from trex.training.requirements import bytes_per_batch

GPUS = StageResources(nodes=2, gpus_per_node=4, cpus_per_task=9)


def needs(cluster: Cluster, *settings: str, state: int = 0) -> Needs:
    return Needs.of("train", load(None, Config, settings), cluster, state)


def test_batches_are_counted_as_they_are_made() -> None:
    config = load(None, Config, ["data.dataset=digits_seen", "data.workers=0", "crops.local_count=2"])
    images = load_split("digits_seen", "trainval", config.data)
    crops = next(iter(TrainingBatches(images, config.crops, 0, 8, 1, 2, 0).starting_at(0, 0)))
    assert crops is not None
    made = sum(crop.nbytes for crop in crops.crops)
    config = load(None, Config, ["train.batch_size=8", "crops.local_count=2"])
    assert bytes_per_batch(config, 2) == made + 4 * 3 * 224 * 224, "and the images of a validation"


def test_shared_memory_and_memory_grow_with_processes_and_loader_processes() -> None:
    one = needs(Cluster(train=StageResources()), "train.batch_size=32")
    batch = 32 * 3 * (2 * 224**2 + 8 * 96**2)
    assert (one.processes, one.batch, one.shared) == (1, batch, 8 * 4 * batch)
    four = needs(Cluster(train=GPUS))
    assert (four.processes, four.batch, four.shared) == (4, batch, 4 * one.shared)
    copies, cuda = four.shared, 4e9
    assert four.memory == pytest.approx(4 * one.memory + copies + cuda), "page-locked copies of the batches"
    assert needs(Cluster(train=GPUS), state=10**9).memory == four.memory + 4e9
    none = needs(Cluster(train=GPUS), "data.workers=0")
    assert (none.shared, "/dev/shm" in str(none)) == (0, False)


def test_job_that_asks_for_too_little_memory_is_named_with_what_is_enough() -> None:
    def asking(memory: int) -> Cluster:
        return Cluster(train=StageResources(gpus_per_node=4, cpus_per_task=9, memory_gb=memory))

    with pytest.raises(
        UserError, match=r"train needs about .* and train\.memory_gb is 10: set it to (\d+) or more"
    ) as error:
        require_memory_for(needs(asking(10)), asking(10))
    least = int(str(error.value).rpartition(" or more")[0].rpartition(" ")[2])
    assert require_memory_for(needs(asking(least)), asking(least)).startswith("memory: train needs about")
    with pytest.raises(UserError):
        require_memory_for(needs(asking(least - 1)), asking(least - 1))
    assert "of which" in require_memory_for(needs(asking(0)), asking(0)), "0: the cluster's default, not known here"


def test_this_machine_needs_the_memory_and_the_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = Cluster(kind="local")
    with pytest.raises(UserError, match=r"and this machine has .* lower data\.workers"):
        require_memory_for(needs(local, "data.workers=100000"), local)
    with small_disk(tmp_path / "shm", "size=1m") as disk:
        monkeypatch.setattr(shared_memory, "SHARED_MEMORY", disk.folder)
        with pytest.raises(UserError, match=r"has 1\.0 MB free, and the batches need up to"):
            require_memory_for(needs(local, "data.workers=1"), local)


def test_process_with_fewer_cpus_than_loader_processes_is_a_warning_with_both_keys() -> None:
    few = Cluster(train=StageResources(cpus_per_task=4))
    warning = cpu_warning(needs(few), few)
    assert "train.cpus_per_task is 4, and each process works with data.workers=8" in warning
    assert "set train.cpus_per_task to 9 in the cluster file, or data.workers=3" in warning
    assert cpu_warning(needs(few, "data.workers=3"), few) == ""
    assert cpu_warning(needs(Cluster(train=GPUS)), Cluster(train=GPUS)) == ""
    local = Cluster(kind="local")
    assert cpu_warning(needs(local, "data.workers=0"), local) == ""
    assert "this machine has" in cpu_warning(needs(local, "data.workers=9999"), local)
