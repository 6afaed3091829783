"""What `trex check` reports, with stand-ins for Slurm's programs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.backend import Finding
from jobs.commands.check import findings
from jobs.launch import launch
from jobs.plan.cluster import Cluster, StageResources
from jobs.slurm.check import findings as slurm_findings
from tests.datasets.conftest import put
from tests.jobs.conftest import FakeSlurm
from trex.config import Config, load
from trex.config.schema import DataConfig
from trex.datasets.pack import write_pack
from trex.datasets.registry import load_splits
from trex.errors import UserError
from trex.records.run_dir import RunDir
from trex.storage import in_bytes

PREEMPTIBLE = "PartitionName=low GraceTime=0 PreemptMode=REQUEUE"


def found(partition: str) -> list[Finding]:
    resources = StageResources(partition=partition)
    return list(slurm_findings(RunDir(Path.cwd() / "run"), Config(), Cluster(train=resources)))


@pytest.fixture
def answering(fake_slurm: FakeSlurm) -> FakeSlurm:
    fake_slurm.says("sbatch")
    fake_slurm.says("scontrol", PREEMPTIBLE)
    return fake_slurm


def test_hidden_partitions_are_accepted(answering: FakeSlurm) -> None:
    assert found("low")[0].ok
    assert answering.asked("scontrol")[0] == "--all show partition --oneliner"
    assert not found("lwo")[0].ok


def test_evaluation_of_a_file_needs_no_training_images(fake_slurm: FakeSlurm) -> None:
    settings = ("extract.weights=pixels", "extract.datasets=[digits]", "extract.crop=8", "extract.resize=8")
    config = load(None, Config, settings)
    evaluated = list(findings(RunDir(Path.cwd() / "run"), config, Cluster(kind="local")))
    assert [finding.text for finding in evaluated if not finding.ok] == []
    assert "encoder: none, the features are the raw pixels, 192 numbers per image; " in evaluated[2].text
    assert not [finding.text for finding in evaluated if config.model.encoder in finding.text]
    trained = list(findings(RunDir(Path.cwd() / "run"), load(None, Config, settings[1:]), Cluster(kind="local")))
    assert any("in1k" in finding.text for finding in trained if not finding.ok)


def test_check_says_what_the_nodes_copy_and_what_they_read_in_place(tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    for name in ("birds", "packed"):
        for split in ("train", "val"):
            put(tmp_path / "folders" / name, f"{split}/crow/1.jpg", f"{split}/tit/1.jpg")
    splits = load_splits("packed", DataConfig(root=str(tmp_path / "folders")))
    write_pack(splits, tmp_path / "data/packed.pack", lambda _text: None)
    (tmp_path / "folders/birds").rename(tmp_path / "data/birds")
    settings = (f"data.root={tmp_path}/data", "extract.weights=pixels", "extract.datasets=[birds,packed]")
    config = load(None, Config, settings)
    evaluated = findings(RunDir(tmp_path / "run"), config, Cluster(kind="local", stage="$TMPDIR"))
    (line,) = (finding.text for finding in evaluated if finding.text.startswith("stage: "))
    size = in_bytes(sum(path.stat().st_size for path in tmp_path.glob("data/packed.pack/*-*")))
    assert line == (
        f"stage: each node copies to $TMPDIR: packed ({size}); no packs, so read in place: birds (to make one: trex "
        f"data pack NAME)"
    )


def test_preprocessing_is_shown_with_its_numbers(fake_slurm: FakeSlurm) -> None:
    settings = ["extract.weights=untrained", "extract.datasets=[digits]", "model.encoder=timm/inception_v3"]
    for choice, sizes in (("published", "resize 224 bicubic, center crop 224"), ("model", "center crop 299")):
        config = load(None, Config, [*settings, f"extract.preprocess={choice}"])
        shown = [one.text for one in findings(RunDir(Path.cwd() / "run"), config, Cluster(kind="local"))]
        (line,) = (text for text in shown if text.startswith("encoder: "))
        assert f"extract.preprocess is {choice}: " in line
        assert f"{sizes}, mean 0.5 0.5 0.5, std 0.5 0.5 0.5" in line


@pytest.mark.parametrize(
    ("preempt_type", "notice"),
    [
        ("preempt/partition_prio", "a preempted job gets 0 s (GraceTime) to save"),
        ("preempt/qos", "a preempted job gets the GraceTime of its QOS to save, which is not known here"),
    ],
)
def test_grace_time_is_shown_only_if_the_partition_determines_it(
    answering: FakeSlurm, preempt_type: str, notice: str
) -> None:
    answering.says("scontrol", PREEMPTIBLE, f"PreemptType             = {preempt_type}")
    assert found("low")[0].text.endswith(notice)


def memory(finding: Finding) -> str:
    """Return what a finding says about memory, or an empty string."""
    return finding.text.partition("memory: ")[2]


def test_probe_that_does_not_fit_into_this_machine_is_reported_once(fake_slurm: FakeSlurm) -> None:
    settings = ("extract.weights=pixels", "extract.datasets=[in1k]", "probe.memory_gb=90000")
    run, cluster = RunDir(Path.cwd() / "run"), Cluster(kind="local")
    found = [finding for finding in findings(run, load(None, Config, settings), cluster) if "probe" in memory(finding)]
    assert [finding.ok for finding in found] == [True, False]
    assert "this machine has" in found[1].text
    too_little = load(None, Config, (*settings[:2], "probe.memory_gb=0.5"))
    found = [finding for finding in findings(run, too_little, cluster) if "probe" in memory(finding)]
    assert [finding.ok for finding in found] == [False]


@pytest.mark.parametrize(("stage", "setting"), [("probe", "probe.device"), ("train", "crops.device")])
def test_gpu_that_a_stage_asks_for_and_does_not_get_is_found_before_it_waits(
    answering: FakeSlurm, monkeypatch: pytest.MonkeyPatch, stage: str, setting: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    small = ["data.dataset=digits", "extract.datasets=[digits]", "train.batch_size=4"]
    config = load(None, Config, [f"{setting}=cuda", *small])
    run, gpu = RunDir(Path.cwd() / "run"), StageResources(gpus_per_node=1)

    def found(cluster: Cluster) -> list[str]:
        return [one.text for one in findings(run, config, cluster) if not one.ok and setting in one.text]

    on_slurm = f"the cluster file requests no GPU for the stage {stage}: set gpus_per_node: 1 there, or set {setting}="
    assert found(Cluster(kind="slurm")) == [f"{setting} is cuda, but {on_slurm}auto"]
    assert found(replace(Cluster(kind="slurm"), **{stage: gpu})) == []
    here = f"this machine has no GPU: use a cluster with --cluster, or set {setting}=auto"
    assert found(Cluster(kind="local")) == [f"{setting} is cuda, but {here}"]
    for cluster in (Cluster(kind="slurm"), Cluster(kind="local")):
        with pytest.raises(UserError, match=re.escape(f"{setting} is cuda, but ")):
            launch(run, config, cluster, "run", None, dry_run=True)


@pytest.mark.parametrize(
    ("enforced", "said"),
    [
        ("none", "its limits hold no job back here (AccountingStorageEnforce is none)"),
        ("associations,qos", "its limits hold no job back here (AccountingStorageEnforce is associations,qos)"),
        ("associations,limits", "the limits of accounts and QOS were checked"),
        ("safe", "the limits of accounts and QOS were checked"),
    ],
)
def test_limits_that_the_site_does_not_enforce_are_said_not_to_matter(
    answering: FakeSlurm, enforced: str, said: str
) -> None:
    answering.says("sacctmgr")
    database = "AccountingStorageType   = accounting_storage/slurmdbd"
    answering.says("scontrol", PREEMPTIBLE, database, f"AccountingStorageEnforce = {enforced}")
    assert found("low")[-1] == Finding(True, f"slurm: accounting answers; {said}")


def test_accounting_that_does_not_answer_is_a_warning(answering: FakeSlurm) -> None:
    answering.says("scontrol", PREEMPTIBLE, "AccountingStorageType = accounting_storage/slurmdbd")
    last = found("low")[-1]
    assert last.ok
    assert (
        "warning: sacctmgr does not answer: sacctmgr: not found; the limits of accounts and QOS were not" in last.text
    )
