"""Checks what a cluster file asks of sbatch: the format of times, and the options that a file may set."""

from __future__ import annotations

import re
from collections.abc import Iterator

from jobs.plan.cluster import Cluster, StageResources
from jobs.plan.spec import STAGES

#: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]
_TIME = r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2}"

#: Options that the toolkit sets itself, or that would let a cluster file run another command.
_OWNED = {
    "array", "chdir", "comment", "cpus-per-task", "dependency", "error", "export", "export-file", "get-user-env", "gid",
    "input", "job-name", "kill-on-invalid-dep", "no-requeue", "nodes", "ntasks", "ntasks-per-node", "open-mode",
    "output", "requeue", "signal", "test-only", "uid", "wait", "wrap",
}  # fmt: skip


def problems(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Yield the settings that sbatch would reject or that the toolkit must set itself, each with what is wrong."""
    for name in STAGES:
        stage = cluster.stage(name)
        for key in sorted(_OWNED & set(stage.options)):
            yield f"{name}.options", f"has {key}, which the toolkit sets itself"
        if not re.fullmatch(_TIME, stage.time):
            yield (
                f"{name}.time",
                f"is {stage.time!r}: expected one of Slurm's formats, such as 90 (minutes), 12:30:00 or 1-00:00:00",
            )
        elif seconds(stage.time) < 60:
            yield f"{name}.time", f"is {stage.time}: expected at least a minute (a plain number means minutes)"


def lead(stage: StageResources) -> int:
    """Return the seconds from the warning signal to the time limit, at most a third of the limit.

    A lead as long as the limit would stop the job as soon as it starts.
    """
    return min(stage.signal_lead, seconds(stage.time) // 3)


def names_gpus(stage: StageResources) -> bool:
    """Return whether `options` requests the GPUs, such as `gpus-per-node: a100:4`.

    The toolkit then passes no GPU option of its own to sbatch.
    """
    return "gpu" in stage.options.get("gres", "") or any(key.startswith("gpus") for key in stage.options)


def seconds(time: str) -> int:
    """Convert a time in one of Slurm's formats (M, M:S, H:M:S, D-H, D-H:M, D-H:M:S) to seconds."""
    days, dash, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:
        hours, minutes, rest = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, rest = parts
    else:
        hours, (minutes, rest) = 0, (*parts, 0)[:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest
