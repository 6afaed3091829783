"""Where a stage runs: on this machine, or on a Slurm cluster. The same job function either way."""

from __future__ import annotations

import sys
from pathlib import Path

from jobs import environment, programs
from jobs.local import run_here
from jobs.plan.cluster import Cluster, load_cluster
from jobs.plan.runs import save_config
from jobs.plan.stages import plan, require_files, stages_of
from jobs.slurm import chain
from trex.config.schema import Config
from trex.errors import ExitCode, UserError
from trex.records.run_dir import RunDir


def choose_cluster(name: str | None) -> Cluster:
    """The cluster file of that name; without one, Slurm where `sbatch` answers, else this machine. Says which."""
    if name is not None:
        return load_cluster(name)
    answers = (
        programs.run(["sbatch", "--version"], timeout=10).ok and programs.run(["sinfo", "--noheader"], timeout=10).ok
    )
    chosen = "slurm" if answers else "local"
    sys.stderr.write(
        f"trex: no cluster named: {'Slurm answers here' if answers else 'no Slurm here, using this machine'}\n"
    )
    return load_cluster(chosen)


def launch(run: RunDir, config: Config, cluster: Cluster, stage: str, processes: int | None, dry_run: bool) -> int:
    """Do a stage, or with `run` all of them, where `cluster` says.

    Returns:
        The exit code: of the job itself on this machine, of the submission on Slurm.
    """
    require_files(run, config, stage)
    if cluster.kind == "slurm":
        if processes is not None:
            raise UserError("--processes is for this machine; on Slurm the cluster file says nodes and tasks_per_node")
        return chain.submit(run, config, cluster, stage, dry_run)
    return _launch_here(run, cluster.adapt(config), cluster, stage, processes, dry_run)


def _launch_here(
    run: RunDir, config: Config, cluster: Cluster, stage: str, processes: int | None, dry_run: bool
) -> ExitCode:
    """Do what is missing, one stage after the other; stops at the first that does not end well."""
    todo = plan(run, config, stages_of(stage))
    for skipped in todo.done:
        sys.stderr.write(f"trex: {skipped}: nothing to do\n")
    counts = [_processes(cluster, spec.stage, processes) for spec in todo.specs]
    if dry_run:
        for spec, count in zip(todo.specs, counts, strict=True):
            items = f" of {', '.join(item.name for item in spec.items)}" if spec.items else ""
            words = f"{count} process{'es' if count > 1 else ''}"
            sys.stdout.write(f"would run on this machine: {spec.stage}{items} with {words}, in {run.root}\n")
        return ExitCode.DONE
    save_config(run, config)
    for spec, count in zip(todo.specs, counts, strict=True):
        code = run_here(spec, processes=count, gpus=_gpus())
        if code:
            return code
    return ExitCode.DONE


def _processes(cluster: Cluster, stage: str, asked: int | None) -> int:
    """Processes of a stage on this machine: as asked, as the cluster file says, or one a GPU. Probes use threads."""
    if stage not in ("train", "extract"):
        return 1
    gpus = _gpus()
    count = asked or cluster.stage(stage).tasks_per_node or max(gpus, 1)
    if count > gpus > 0:
        raise UserError(
            f"{count} processes for {gpus} GPU{'s' if gpus > 1 else ''}: each computes on one of its own. Ask for "
            f"--processes {gpus}, or compute on the CPU: CUDA_VISIBLE_DEVICES= trex …"
        )
    return count


def _gpus() -> int:
    """GPUs that may be used here: those of CUDA_VISIBLE_DEVICES, else those that the driver lists, or where its
    program is missing or does not answer those that have a device file. Asking PyTorch would take seconds."""
    if (chosen := environment.chosen_gpus()) is not None:
        return len(chosen)
    answer = programs.run(["nvidia-smi", "--list-gpus"], timeout=20)
    if answer.code in (124, 127):  # no answer in time, or no such program
        return len(list(Path("/dev").glob("nvidia[0-9]*")))
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines()) if answer.ok else 0
