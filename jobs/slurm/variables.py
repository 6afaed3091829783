"""Slurm's environment variables."""

from __future__ import annotations

import re

from jobs import environment
from jobs.plan.defaults import defaults
from trex.errors import UserError

#: Variables of an allocation or a job step. They are removed before a submission so that the new job does not get them.
_ALLOCATION_VARIABLES = re.compile(r"^(SLURM|SBATCH|SRUN|SUBMITIT|PMI|PMIX|MASTER_ADDR$|MASTER_PORT$)")
#: Variables in which users set options of Slurm's other programs, which would hide jobs, or select others to cancel.
_OPTION_VARIABLES = re.compile(r"^(SACCT|SCANCEL|SINFO|SQUEUE)_")
#: Variables in which Slurm names the GPUs of an allocation. A job without GPUs would inherit them.
_GPU_VARIABLES = {"CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"}
#: Variables that say which Slurm to use and how to log in to it. They are kept.
_SITE_VARIABLES = {"SLURM_CONF", "SLURM_TIME_FORMAT", "SLURM_CLUSTERS", "SLURM_JWT"}
#: Options that users set for all their jobs through SBATCH_ACCOUNT, SBATCH_PARTITION and so on. The toolkit writes them
#: into the batch script, because sbatch would let the variables override the cluster file.
_DEFAULTS = ("account", "partition", "qos", "reservation")


def outside_allocation() -> dict[str, str]:
    """Return this environment without the variables of an allocation, and of users' options for Slurm's programs.

    A submission and each question to Slurm need it.
    """
    return {
        name: value
        for name, value in environment.variables().items()
        if name in _SITE_VARIABLES or not (_ALLOCATION_VARIABLES.match(name) or _OPTION_VARIABLES.match(name))
    }


def leave_allocation(to_submit: bool = False) -> None:
    """Remove the variables of an allocation from this process, so that jobs which it starts do not get them.

    With `to_submit`, also those that name the allocation's GPUs: the new job gets its own. Outside an allocation, the
    user has set them and they stay.
    """
    if to_submit and environment.get("SLURM_JOB_ID"):
        environment.remove(_GPU_VARIABLES)
    environment.remove(set(environment.variables()) - set(outside_allocation()))


def chosen_cluster(name: str | None) -> str:
    """Return the Slurm cluster to submit to: `name`, or else that in SLURM_CLUSTERS; empty: that of this machine.

    Raises:
        UserError: if the variable names several: the jobs of a run wait for each other, which only one cluster can do.
    """
    chosen = name or environment.get("SLURM_CLUSTERS")
    if "," in chosen or chosen == "all":
        raise UserError(
            f"SLURM_CLUSTERS is {chosen!r}: expected one cluster, because the jobs of a run wait for each other. Set "
            f"clusters in the cluster file, or unset the variable"
        )
    return chosen


def sbatch_defaults() -> dict[str, str]:
    """Return the sbatch options that the user or the site set for all jobs: in SBATCH_ACCOUNT and so on, or the default
    account (jobs/plan/defaults.py).
    """
    values = {option: environment.get(f"SBATCH_{option.upper()}") for option in _DEFAULTS}
    values["account"] = values["account"] or defaults().account or ""
    return {option: value for option, value in values.items() if value}
