"""The chain of a run as Slurm jobs: what is submitted, which jobs wait for which, what a failure cancels."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.slurm.conftest import Run, Site, children, make_site, pinned, start_sandbox, stop_sandbox, wait_for

#: Settings of a run without training and encoder: the features are the pixels of the images.
PIXELS = ("extract.weights=pixels", "extract.resize=8", "extract.crop=8")


def write_image_folder(folder: Path, trainval: int = 12, test: int = 4) -> None:
    """Write a dataset of two classes: one folder per class, with `trainval` or `test` images each."""
    rng = np.random.default_rng(0)
    for split, count in (("trainval", trainval), ("test", test)):
        for label, brightness in (("dark", 60), ("light", 200)):
            place = folder / split / label
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(brightness - 40, brightness + 40, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")


def submitted(text: str) -> list[str]:
    """Return the stages that a command says it submitted."""
    return re.findall(r"^trex: (\w+): submitted", text, re.MULTILINE)


def run_chain(site: Site, name: str, *settings: str, cluster: str = "sandbox") -> Run:
    site.trex("run", "tiny.yaml", f"name={name}", *settings, "--cluster", cluster)
    return site.run_of(name)


def results(run: Run) -> list[dict[str, str]]:
    """Return the rows of the report's table, without the columns that differ between two computations."""
    with (run.root / "report" / "results.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in ("seconds", "path")} for row in csv.DictReader(file)]


def test_chain_gives_the_same_results_as_on_this_machine(site: Site, tmp_path: Path) -> None:
    settings = ("train.epochs=1", "extract.datasets=[digits_unseen]")
    on_slurm = run_chain(site, "same", *settings)
    here = make_site(site.sandbox, tmp_path / "here")
    words = ("run", "tiny.yaml", "name=same", *settings, "--cluster", "local", "--processes", "4")
    here.trex(*words, **pinned(4))
    site.ended(*on_slurm.jobs().values())
    assert results(on_slurm)
    assert results(on_slurm) == results(here.run_of("same"))
    for run in (on_slurm, here.run_of("same")):  # the report is the last job of the chain
        page = (run.root / "report" / "index.html").read_text()
        assert ("core-hours" in page, "GPU-hours" in page) == (True, run is on_slurm)
        assert {event["stage"] for event in run.events("environment")} == {"train", "extract", "probe", "report"}


def test_signals_during_validation_extraction_and_probe_do_not_change_the_report(site: Site, tmp_path: Path) -> None:
    write_image_folder(site.home / "mine", trainval=32, test=1000)
    settings = (
        "name=thrice", "data.dataset=mine", f"data.folders={{mine: {site.home}/mine}}", "train.epochs=1",
        "train.batch_size=64", "data.workers=1", "extract.datasets=[mine, digits]", "extract.batch_size=32",
        "probe.seeds=6",
    )  # fmt: skip
    site.trex("run", "tiny.yaml", *settings, "--cluster", "small.yaml")
    run, jobs = site.run_of("thrice"), site.run_of("thrice").jobs()
    moments = {
        "train": "epoch 1/1 step 1/1",
        "extract-mine": "mine test: block 1/",
        "probe-digits": "digits exact seed 0",
    }
    for key, text in moments.items():
        wait_for(lambda key=key, text=text: text in run.log(key), every=0.02)  # type: ignore[misc]
        if key == "train":  # the validation starts a second loader process; both are forked by a server process
            wait_for(lambda: sum(len(children(pid)) for pid in children(run.main_process())) == 2, every=0.02)
        # The signal goes to the processes and not to the shell, as in a preemption.
        run.interrupt(lambda key=key: site.call("scancel", "--signal=TERM", jobs[key]), key=key)  # type: ignore[misc]
    site.ended(*jobs.values())
    for key in moments:
        assert site.accounting(jobs[key]) == ["REQUEUED", "COMPLETED"], run.log(key)
    assert "validation: top-1" not in run.log("train").partition("requeue:")[0]
    assert len(re.findall(r"digits exact seed 0: top-1", run.log("probe-digits"))) == 1

    here = make_site(site.sandbox, tmp_path / "here")
    words = ("run", "tiny.yaml", *settings, "--cluster", "local", "--processes", "1")
    here.trex(*words, **pinned(1))
    assert results(run) == results(here.run_of("thrice"))


def test_killed_probes_are_requeued_and_retry_submits_only_the_cancelled_one(site: Site, tmp_path: Path) -> None:
    settings = (
        "name=seeds",
        *PIXELS,
        "probe.seeds=5",
        "probe.seeds_per_job=1",
        "extract.datasets=[digits, digits_seen]",
    )
    site.trex("run", "tiny.yaml", *settings, "--cluster", "small.yaml")
    run, jobs = site.run_of("seeds"), site.run_of("seeds").jobs()
    probes = {key: job for key, job in jobs.items() if key.startswith("probe-")}
    assert set(probes) == {f"probe-{name}-seed{seed}" for name in ("digits", "digits_seen") for seed in range(5)}

    def running() -> str:
        return wait_for(lambda: next((key for key in probes if run.state(key)["state"] == "running"), None), every=0.05)

    killed = running()
    os.kill(run.main_process(killed), signal.SIGKILL)
    del probes[killed]
    cancelled = running()
    with run.frozen(cancelled):
        site.call("scancel", jobs[cancelled])
    site.ended(*jobs.values())
    assert site.accounting(jobs[killed]) == ["REQUEUED", "COMPLETED"]
    assert site.accounting(jobs[cancelled]) == ["CANCELLED"]

    assert submitted(site.trex("retry", "seeds").stderr) == ["probe", "report"]
    after = run.jobs()
    assert {key for key in after if after[key] != jobs[key]} == {cancelled, "report"}
    site.ended(*after.values())
    here = make_site(site.sandbox, tmp_path / "here")
    here.trex("run", "tiny.yaml", *settings, "--cluster", "local", **pinned(1))
    assert len(results(run)) == 10
    assert results(run) == results(here.run_of("seeds"))


def test_finished_job_that_is_requeued_ends_at_once_and_changes_nothing(site: Site) -> None:
    run = run_chain(site, "again", *PIXELS, "extract.datasets=[digits_unseen]")
    jobs = run.jobs()
    site.ended(*jobs.values())
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*.h5")}
    before |= {path: path.stat().st_mtime_ns for path in run.root.rglob("seed_*.json")}
    assert len(before) >= 4
    keys = ("extract-digits_unseen", "probe-digits_unseen")
    for key in keys:
        site.call("scontrol", "requeue", jobs[key])
    site.ended(*jobs.values())
    for key in keys:
        assert site.accounting(jobs[key], starts=2)[1:] == ["COMPLETED"]
        assert [event["code"] for event in run.events("attempt_ended") if event["keys"] == [key]] == [0, 0]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_jobs_in_the_queue_and_finished_jobs_are_not_submitted_again(site: Site) -> None:
    words = ("run", "tiny.yaml", "name=once", *PIXELS, "--cluster", "sandbox")
    first = site.trex(*words)
    assert submitted(first.stderr) == ["extract", "probe", "report"]
    again = site.trex(*words)
    assert submitted(again.stderr) == []
    assert "already in the queue" in again.stderr
    site.ended(*site.run_of("once").jobs().values())
    afterwards = site.trex(*words)
    assert submitted(afterwards.stderr) == []
    assert "probe: nothing to do" in afterwards.stderr


def test_retry_submits_only_failed_jobs_and_the_jobs_that_waited_for_them(site: Site) -> None:
    lists = ("extract.datasets=[digits, mine]", f"data.folders={{mine: {site.home}/mine}}")
    run = run_chain(site, "half", *PIXELS, *lists)
    before = run.jobs()
    site.ended(*before.values())
    assert run.state("extract-mine")["state"] == "failed"
    assert site.recorded(before["probe-mine"]) in ([], ["CANCELLED"]), "it does not wait forever"
    assert run.state("probe-digits")["state"] == "done", "the other dataset is probed"
    assert site.accounting(before["report"]) == ["COMPLETED"]

    write_image_folder(site.home / "mine")
    retry = site.trex("retry", "half")
    assert submitted(retry.stderr) == ["extract", "probe", "report"]
    after = run.jobs()
    assert {key for key in after if after[key] != before[key]} == {"extract-mine", "probe-mine", "report"}
    site.ended(*after.values())
    assert {row["dataset"] for row in results(run)} == {"digits", "mine"}
    assert "nothing is missing" in site.trex("retry", "half").stderr


def test_no_job_waits_forever_for_a_failed_training(site: Site) -> None:
    run = run_chain(site, "hopeless", "data.dataset=nowhere", "train.epochs=1")
    jobs = run.jobs()
    site.ended(*jobs.values())
    report, training = jobs.pop("report"), jobs.pop("train")
    assert site.accounting(training) == ["FAILED"]
    assert {state for job in jobs.values() for state in site.recorded(job)} == {"CANCELLED"}
    assert site.accounting(report)[-1] in ("COMPLETED", "FAILED")


def test_cancel_ends_the_whole_chain(site: Site) -> None:
    run = run_chain(site, "unwanted", "train.epochs=50")
    jobs = run.jobs()
    assert "cancelled" in site.trex("cancel", "unwanted").stderr
    site.ended(*jobs.values())
    wait_for(lambda: {state for job in jobs.values() for state in site.recorded(job)} == {"CANCELLED"})
    assert "no jobs in the queue" in site.trex("cancel", "unwanted").stderr
    assert site.trex("retry", "unwanted", "--dry-run").stdout.count("# ---- would be submitted: ") == 4, (
        "retry continues them all"
    )


def test_dry_run_prints_every_script_and_creates_nothing(site: Site) -> None:
    before = sorted(path.name for path in site.home.iterdir())
    done = site.trex("run", "tiny.yaml", "name=planned", "--cluster", "sandbox", "--dry-run")
    assert done.stdout.count("# ---- would be submitted: ") == 4
    assert "#SBATCH --dependency='afterok:<train>'" in done.stdout
    assert sorted(path.name for path in site.home.iterdir()) == before
    assert site.mine() == []


@pytest.fixture
def odd_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A site without accounting, and with little or no job arrays."""
    folder = start_sandbox("--no-accounting", "--max-array-size", str(request.param))
    try:
        yield make_site(folder, tmp_path / "odd")
    finally:
        stop_sandbox(folder)


@pytest.mark.parametrize("odd_site", [0, 2], indirect=True, ids=["no arrays", "arrays of two"])
def test_chain_runs_without_accounting_and_with_little_or_no_arrays(odd_site: Site) -> None:
    run = run_chain(odd_site, "odd", *PIXELS, "extract.datasets=[digits, digits_seen, digits_unseen]", "probe.seeds=1")
    jobs = run.jobs()
    arrays = {job.partition("_")[0] for key, job in jobs.items() if key.startswith("extract")}
    assert len(arrays) >= 2
    odd_site.ended(*jobs.values())
    assert {row["dataset"] for row in results(run)} == {"digits", "digits_seen", "digits_unseen"}
    status = json.loads(odd_site.trex("status", "--json").stdout)
    assert {stage: value["state"] for stage, value in status[0]["stages"].items()} == {
        "extract": "done", "probe": "done", "report": "done",
    }  # fmt: skip
