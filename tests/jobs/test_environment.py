"""The environment of a submission from inside an allocation."""

from __future__ import annotations

import pytest

from jobs import environment
from jobs.slurm.variables import leave_allocation, outside_allocation


def test_variables_of_the_site_are_kept_and_those_of_the_allocation_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    stays = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    goes = ("SLURM_JOB_ID", "SLURM_CLUSTER_NAME", "SBATCH_PARTITION")
    for name in (*stays, *goes):
        monkeypatch.setenv(name, "x")
    left = outside_allocation()
    assert [name for name in (*stays, *goes) if name in left] == list(stays)


@pytest.mark.parametrize(("job", "to_submit", "left"), [("7", True, ""), ("7", False, "3"), ("", True, "3")])
def test_gpus_of_an_allocation_are_not_passed_to_a_job_submitted_from_it(
    monkeypatch: pytest.MonkeyPatch, job: str, to_submit: bool, left: str
) -> None:
    """A training submits the probes of its milestones. Processes that are started inside the allocation keep its GPUs,
    and so does a job that is submitted by a user who has chosen them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("SLURM_JOB_ID", job)
    leave_allocation(to_submit)
    assert environment.get("CUDA_VISIBLE_DEVICES") == left
    assert environment.get("SLURM_JOB_ID") == ""
