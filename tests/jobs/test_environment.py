"""The environment of a submission from inside an allocation."""

from __future__ import annotations

import pytest

from jobs.slurm.variables import outside_allocation


def test_variables_of_the_site_are_kept_and_those_of_the_allocation_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    stays = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    goes = ("SLURM_JOB_ID", "SLURM_CLUSTER_NAME", "SBATCH_PARTITION")
    for name in (*stays, *goes):
        monkeypatch.setenv(name, "x")
    left = outside_allocation()
    assert [name for name in (*stays, *goes) if name in left] == list(stays)
