"""The Debian packages that the sandbox needs, and a check for those that are missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

#: Folders of the daemons, which are not on every user's PATH.
SYSTEM_PATH = ":/usr/local/sbin:/usr/sbin:/sbin"
#: The packages, each with its programs that the sandbox uses.
PACKAGES = {
    "slurm-wlm": ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo"),
    "munge": ("munged",),
    "slurmdbd": ("slurmdbd", "sacctmgr", "sacct"),
    "mariadb-server": ("mariadbd", "mariadb-install-db", "mariadb-admin"),
}


def missing_packages(needed: Iterable[str], path: str) -> list[str]:
    """The packages of `needed` of which at least one program is not found on `path`."""
    return [name for name in needed if not all(shutil.which(program, path=path) for program in PACKAGES[name])]
