"""Checks what a cluster file asks of sbatch and srun: the format of times, and the options that a file may set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from jobs.plan.cluster import Cluster, StageResources
from jobs.plan.spec import STAGES

#: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]
TIME = r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2}"

_OWN = "which the toolkit sets itself"
_ID = "with which the toolkit could not read the job's id from sbatch's answer"
_ELSEWHERE = "whose jobs the toolkit would not find in the queue"
_NOTHING = "with which sbatch submits nothing"
_SCRIPT = "with which the batch script would not run as the toolkit wrote it"

#: Options that change what a submission means, with the reason why a cluster file may not have them.
_REFUSED = {
    **dict.fromkeys(("array", "comment", "dependency", "error", "job-name", "kill-on-invalid-dep", "no-requeue"), _OWN),
    **dict.fromkeys(("open-mode", "output", "requeue"), _OWN),
    **{name: f"{_OWN}: use {name}" for name in ("account", "constraint", "nodes", "partition", "qos", "time")},
    **dict.fromkeys(("ntasks", "ntasks-per-gpu", "ntasks-per-node"), f"{_OWN}: use nodes and tasks_per_node"),
    **dict.fromkeys(("cpus-per-task", "tres-per-task"), f"{_OWN}: use cpus_per_task and gpus_per_node"),
    "signal": f"{_OWN}: use signal_lead",
    **dict.fromkeys(("parsable", "quiet"), _ID),
    "clusters": "which applies to all stages: use clusters at the top of the file",
    "cluster-constraint": _ELSEWHERE,
    **dict.fromkeys(("help", "test-only", "usage", "version"), _NOTHING),
    **dict.fromkeys(("chdir", "container", "container-id", "export", "export-file", "get-user-env"), _SCRIPT),
    **dict.fromkeys(("gid", "input", "uid", "wrap"), _SCRIPT),
    "no-kill": "with which a job would wait for the processes of a failed node instead of being requeued",
    "wait": "with which the command would wait until the job has ended",
}

_STEP = "with which the processes would not be those of the toolkit"

#: The same for srun. A plugin's options, such as those of pyxis, are allowed, and so are `label`, `cpu-bind`, `mpi`.
_REFUSED_OF_SRUN = {
    **dict.fromkeys(("error", "job-name", "kill-on-bad-exit", "open-mode", "output", "unbuffered", "wait"), _OWN),
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-gpu", "ntasks-per-node"), f"{_OWN}: use nodes and tasks_per_node"),
    **dict.fromkeys(("cpus-per-task", "tres-per-task"), f"{_OWN}: use cpus_per_task and gpus_per_node"),
    **{name: f"{_OWN}: use {name} of a stage" for name in ("account", "constraint", "partition", "qos", "time")},
    **dict.fromkeys(("export", "export-file"), "with which the processes would lack variables of the toolkit"),
    **dict.fromkeys(("help", "test-only", "usage", "version"), "with which srun starts nothing"),
    **dict.fromkeys(("bcast", "chdir", "gid", "input", "multi-prog", "no-allocate", "pty", "uid"), _STEP),
    **dict.fromkeys(("array", "clusters", "dependency", "het-group", "jobid", "relative", "signal"), _STEP),
    "no-kill": _REFUSED["no-kill"],
}


def problems(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Yield the settings that sbatch would reject or that the toolkit must set itself, each with what is wrong."""
    yield from (("process_options", problem) for problem in _refused(cluster.process_options, _REFUSED_OF_SRUN))
    for name in STAGES:
        stage = cluster.resources(name)
        yield from ((f"{name}.options", problem) for problem in _refused(stage.options, _REFUSED))
        if not re.fullmatch(TIME, stage.time):
            yield (
                f"{name}.time",
                f"is {stage.time!r}: expected one of Slurm's formats, such as 90 (minutes), 12:30:00 or 1-00:00:00",
            )
        elif seconds(stage.time) < 60:
            yield f"{name}.time", f"is {stage.time}: expected at least a minute (a plain number means minutes)"


def _refused(options: Iterable[str], refused: Mapping[str, str]) -> Iterator[str]:
    for key in options:
        # Slurm's programs accept the beginning of an option's name too.
        for option in [key] if key in refused else [one for one in refused if one.startswith(key)][:1]:
            yield f"has {key}{'' if key == option else f' for {option}'}, {refused[option]}"


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
