"""What a submission from inside an allocation starts from."""

from __future__ import annotations

import pytest

from jobs.slurm.variables import outside_allocation


def test_where_slurm_is_and_how_it_is_entered_stays_and_the_allocation_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    stays = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    goes = ("SLURM_JOB_ID", "SLURM_CLUSTER_NAME", "SBATCH_PARTITION")
    for name in (*stays, *goes):
        monkeypatch.setenv(name, "x")
    left = outside_allocation()
    assert [name for name in (*stays, *goes) if name in left] == list(stays)
