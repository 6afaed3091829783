"""Checks a cluster file against Slurm before anything is submitted: do its partitions exist, is each job accepted."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from jobs import programs
from jobs.backend import Finding
from jobs.plan.cluster import Cluster, StageResources
from jobs.plan.spec import STAGES, Stage, TaskSpec
from jobs.slurm.variables import outside_allocation
from jobs.slurm.work import Work
from trex.errors import UserError
from trex.records.run_dir import RunDir
from trex.wording import counted


def findings(run: RunDir, cluster: Cluster) -> Iterator[Finding]:
    """Ask Slurm about the job of each stage and about accounting. Submits nothing."""
    answer = programs.run(["sinfo", "--all", "--noheader", "--format", "%R"], timeout=30)  # hidden partitions too
    if not answer.ok:
        yield Finding(False, f"slurm: sinfo does not answer: {answer.stderr.strip()}")
        return
    partitions = sorted(set(answer.stdout.split()))
    for stage in STAGES:
        yield Finding.of(functools.partial(_stage, run, cluster, stage, partitions))
    accounting = programs.run(["sacct", "--noheader", "--allocations"], timeout=30).ok
    yield Finding(
        True, f"slurm: {'accounting answers' if accounting else 'no accounting; trex status works without it'}"
    )


def _stage(run: RunDir, cluster: Cluster, stage: Stage, partitions: list[str]) -> str:
    """Ask Slurm whether it would accept the stage's job, without submitting it."""
    from jobs.slurm.submit import Submitter

    wanted = cluster.stage(stage)
    for partition in (wanted.partition or "").split(","):
        if partition and partition not in partitions:
            raise UserError(
                f"slurm: {stage}: partition {partition!r} does not exist or is not visible to you; expected "
                f"one of: {', '.join(partitions)}"
            )
    script = Submitter(run, cluster).text(Work((TaskSpec(stage, str(run.root)),)))
    answer = programs.run(["sbatch", "--test-only"], timeout=60, env=outside_allocation(), stdin=script)
    if not answer.ok:
        raise UserError(f"slurm: {stage}: {_asked(wanted)}: {_reason(answer.stderr)}")
    return f"slurm: {stage}: {_asked(wanted)}: {_reason(answer.stderr)}{_notice(wanted)}"


def _asked(stage: StageResources) -> str:
    gpus = f", {counted(stage.gpus_per_node, 'GPU')} per node" if stage.gpus_per_node else ""
    where = f" in {stage.partition}" if stage.partition else ""
    return f"{counted(stage.nodes, 'node')}{gpus}, {stage.time}{where}"


def _reason(text: str) -> str:
    """Return sbatch's output as one line, without the prefix `sbatch: error:`."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in text.strip().splitlines()]
    return "; ".join(lines)


def _notice(stage: StageResources) -> str:
    """Return how many seconds a preempted job gets in this partition before it is killed."""
    if stage.partition is None:
        return ""
    answer = programs.run(["scontrol", "show", "partition", "--oneliner", stage.partition], timeout=30)
    values = dict(word.split("=", 1) for word in answer.stdout.split() if "=" in word)
    if values.get("PreemptMode", "OFF") == "OFF":
        return ""
    config = programs.run(["scontrol", "show", "config"], timeout=30).stdout
    if re.search(r"^PreemptType\s*=\s*preempt/qos", config, re.MULTILINE):
        return "; a preempted job gets the GraceTime of its QOS to save, which is not known here"
    return f"; a preempted job gets {values.get('GraceTime', '?')} s (GraceTime) to save"
