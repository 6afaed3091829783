"""Slurm's variables in the environment of a process."""

from __future__ import annotations

import re

from jobs import environment

#: Variables of an allocation or a job step; left in place at submission, they would leak into the new job.
_OF_AN_ALLOCATION = re.compile(r"^(SLURM|SBATCH|SRUN|SUBMITIT|PMI|PMIX|MASTER_ADDR$|MASTER_PORT$)")
#: What tells where Slurm itself is and how it is entered, and stays.
_OF_THE_SITE = {"SLURM_CONF", "SLURM_TIME_FORMAT", "SLURM_CLUSTERS", "SLURM_JWT"}
#: Options of sbatch that sites tell people to set for all their jobs: SBATCH_ACCOUNT and so on. They are read apart
#: and written into the batch script, for sbatch would give the variables precedence over what a cluster file says.
_DEFAULTS = ("account", "partition", "qos", "reservation")


def outside_allocation() -> dict[str, str]:
    """This environment without what belongs to an allocation: what a submission starts from."""
    return {
        name: value
        for name, value in environment.variables().items()
        if name in _OF_THE_SITE or not _OF_AN_ALLOCATION.match(name)
    }


def leave_allocation() -> None:
    """Drop the variables of an allocation from this process, before it submits a job from inside one."""
    environment.remove(set(environment.variables()) - set(outside_allocation()))


def sbatch_defaults() -> dict[str, str]:
    """Options of sbatch that the user, or the site, chose for all jobs, such as SBATCH_ACCOUNT in a login script."""
    values = {option: environment.get(f"SBATCH_{option.upper()}") for option in _DEFAULTS}
    return {option: value for option, value in values.items() if value}
