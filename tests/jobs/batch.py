"""Runs a batch script of the toolkit without Slurm."""

from __future__ import annotations

import os
import subprocess

from jobs.plan.cluster import Cluster
from jobs.plan.spec import TaskSpec
from jobs.slurm.submit import Submitter
from jobs.slurm.work import Work
from trex.records.run_dir import RunDir

#: Starts the command after its options, as process 0 on node n1.
_SRUN = """#!/bin/bash
while [[ $1 == --* || $1 == */slurm/* ]]; do shift; done
SLURM_PROCID=0 SLURMD_NODENAME=n1 exec "$@"
"""
#: Says when it is asked to requeue.
_SCONTROL = '#!/bin/bash\n[ "$1" != requeue ] || echo requeued "$2"\n'


def run_script(run: RunDir, cluster: Cluster, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the batch script of the run's report as job 7, with stand-ins for srun and scontrol."""
    programs = run.root.parent / "programs"
    programs.mkdir(exist_ok=True)
    for name, text in (("srun", _SRUN), ("scontrol", _SCONTROL), ("sinfo", "#!/bin/bash\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    script = Submitter(run, cluster).text(Work((TaskSpec("report", str(run.root)),)))
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
    environment = {**os.environ, **slurm, "PATH": f"{programs}:{os.environ['PATH']}", **variables}
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
