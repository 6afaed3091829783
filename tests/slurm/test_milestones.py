"""Probes at milestones: a training submits them from its node, and neither waits for them nor fails with them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.slurm.conftest import Run, Site, wait_for

#: As small.yaml, but the extraction is submitted on hold: it starts only when the test releases it.
HELD = """
kind: slurm
train: {partition: gpu, gpus_per_node: 1, time: "00:30:00", signal_lead: 20}
extract: {partition: gpu, gpus_per_node: 1, time: "00:30:00", signal_lead: 20, options: {hold: "yes"}}
probe: {partition: cpu, time: "00:30:00", signal_lead: 20}
"""

SETTINGS = ("checkpoint.milestone_epochs=1", "probe.at=milestones", "extract.datasets=[digits_unseen, digits_seen]",
            "probe.at_datasets=[digits_unseen, digits_seen]")  # fmt: skip
WARNING = "the milestones could not be evaluated"


def results(run: Run) -> dict[str, str]:
    """Return the label of the weights of each result at a milestone, by its path."""
    found = sorted((run.root / "milestones").glob("epoch-*/probes/*/exact/seed_*.json"))
    return {
        str(path.relative_to(run.root / "milestones")): json.loads(path.read_text())["provenance"]["weights"]
        for path in found
    }


def submitted_keys(run: Run) -> list[str]:
    lines = (run.root / "jobs" / "submitted.jsonl").read_text().splitlines()
    return [key for line in lines for key in json.loads(line)["jobs"]]


def status(site: Site, run: Run) -> dict[str, str]:
    [found] = json.loads(site.trex("status", run.name, "--json").stdout)
    return {stage: value["state"] for stage, value in found["stages"].items()}


def test_training_submits_its_milestones_once_and_does_not_wait_for_them(site: Site) -> None:
    (site.home / "held.yaml").write_text(HELD)
    site.trex("train", "tiny.yaml", "name=curve", *SETTINGS, "--cluster", "held.yaml")
    run, job = site.run_of("curve"), site.run_of("curve").jobs()["train"]
    wait_for(lambda: "probe-digits_seen@epoch-0001" in run.jobs())
    run.interrupt(lambda: site.call("scancel", "--signal=TERM", job))  # as in a preemption
    site.ended(job)
    assert site.accounting(job, starts=2) == ["REQUEUED", "COMPLETED"], run.log()
    assert WARNING not in run.log()

    # The training has ended, and no milestone has been evaluated.
    keys = [f"{stage}-{name}@epoch-000{epoch}" for epoch in (1, 2) for stage in ("extract", "probe")
            for name in ("digits_unseen", "digits_seen")]  # fmt: skip
    assert submitted_keys(run) == ["train", *keys], "once, although the training was restarted; not the last epoch"
    jobs = {key: run.jobs()[key] for key in keys}
    assert {site.queue()[one] for one in jobs.values()} == {"PENDING"}
    assert results(run) == {}
    assert status(site, run)["milestones"] == "on hold"

    for array in {one.partition("_")[0] for key, one in jobs.items() if key.startswith("extract")}:
        site.call("scontrol", "release", array)
    site.ended(*jobs.values())
    found = results(run)
    assert len(found) == 2 * 2 * 2, "epochs, datasets, seeds"
    assert all(
        weights.startswith(f"{path.partition('/')[0]}-step-00000000, SHA-256") for path, weights in found.items()
    )
    assert len({weights for weights in found.values()}) == 2
    assert not list((run.root / "milestones").rglob("*.h5")), "the features are deleted"
    assert status(site, run)["milestones"] == "done"
    repeats_nothing(site, run, jobs)


def repeats_nothing(site: Site, run: Run, jobs: dict[str, str]) -> None:
    """Check that neither a command nor a job that starts once more does the work again."""
    before = {path: path.stat().st_mtime_ns for path in (run.root / "milestones").rglob("*.json")}
    assert before
    said = site.trex("probe", "curve", "--milestones", "--cluster", "held.yaml").stderr
    assert "nothing is missing" in said
    keys = ("extract-digits_seen@epoch-0001", "probe-digits_seen@epoch-0001")
    for key in keys:
        site.call("scontrol", "requeue", jobs[key])
    site.ended(*jobs.values())
    assert [site.accounting(jobs[key], starts=2)[1:] for key in keys] == [["COMPLETED"]] * 2
    assert not list((run.root / "milestones").rglob("*.h5")), "the deleted features are not made again"
    assert {path: path.stat().st_mtime_ns for path in (run.root / "milestones").rglob("*.json")} == before


def test_node_that_cannot_submit_costs_a_warning_and_a_later_command_catches_up(site: Site) -> None:
    refuses = site.home / "refuses"
    refuses.mkdir()
    (refuses / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: Access/permission denied' >&2\nexit 1\n")
    (refuses / "sbatch").chmod(0o755)
    cluster = f"{(site.home / 'small.yaml').read_text()}setup: ['export PATH={refuses}:$PATH']\n"
    (site.home / "refusing.yaml").write_text(cluster)
    site.trex("train", "tiny.yaml", "name=late", "train.epochs=2", *SETTINGS, "--cluster", "refusing.yaml")
    run, job = site.run_of("late"), site.run_of("late").jobs()["train"]
    site.ended(job)
    assert site.accounting(job) == ["COMPLETED"], run.log()
    assert run.log().count(WARNING) == 1
    assert re.search(rf"{WARNING} \(.*Slurm rejected the extract job.*Access/permission denied", run.log())
    assert submitted_keys(run) == ["train"]
    assert "trex retry late" in site.trex("status", "late").stdout

    said = site.trex("probe", "late", "--milestones", "--cluster", "small.yaml").stderr
    assert re.findall(r"^trex: (\w+): submitted", said, re.MULTILINE) == ["extract", "probe"]
    site.ended(*run.jobs().values())
    assert {Path(path).parts[0] for path in results(run)} == {"epoch-0001"}
    assert len(results(run)) == 4
