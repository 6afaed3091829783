"""Passes the missing work of a run to the back end that the cluster file selects."""

from __future__ import annotations

import sys

from jobs.backend import backend, backends, load_cluster, read_cluster
from jobs.plan.cluster import Cluster
from jobs.plan.defaults import defaults
from jobs.plan.milestones import with_milestones
from jobs.plan.runs import open_run, require_readable_jobs
from jobs.plan.spec import is_of_milestone
from jobs.plan.stages import plan, require_files, require_kinds, require_one_class, stages_of
from trex.config import Config
from trex.errors import ExitCode, UserError
from trex.probing.kind import left_out
from trex.records.events import AttemptStarted, read_events
from trex.records.run_dir import RunDir
from trex.records.submission import Submission

_HERE = "local"
MILESTONES = "milestones"  #: what `launch` accepts besides stages and `run`


def choose_cluster(name: str | None) -> Cluster:
    """Return the cluster file of that name.

    Without a name, return the user's default, or else the file of the first available back end, and print which one.
    """
    if name is not None:
        return load_cluster(name)
    if (default := defaults().cluster) is not None:
        sys.stderr.write(f"trex: no --cluster given: using {default}, the default in config.yaml (docs/slurm.md)\n")
        return load_cluster(default)
    others = {kind: one for kind, one in backends().items() if kind != _HERE}
    for kind, one in others.items():
        if one.is_available():
            sys.stderr.write(f"trex: no --cluster given: using {one.title}, which answers here\n")
            return load_cluster(kind)
    missing = " or ".join(one.title for one in others.values())
    sys.stderr.write(f"trex: no --cluster given: no {missing} here, using this machine\n")
    return load_cluster(_HERE)


def launch(
    run: RunDir, config: Config, cluster: Cluster, stage: str, processes: int | None, dry_run: bool,
    verbose: bool = False,
) -> ExitCode:  # fmt: skip
    """Run a stage, all stages for `run`, or the work at `milestones`, where `cluster` says.

    Skips what is done or in a queue. `run` includes the milestones whose checkpoints exist. With `verbose`, a dry run
    prints batch scripts completely.

    Returns:
        The exit code: of the job itself on this machine, of the submission on a cluster.

    Raises:
        UserError: if the work cannot be done or is not asked for by the config.
    """
    require_one_class(config, stage)
    require_kinds(config, stage)
    require_files(run, config, stage)
    config = cluster.adapt(config)
    if stage == MILESTONES and config.probe.at == "final":
        raise UserError(
            "probe.at is final: there is nothing to evaluate at milestones; set probe.at=milestones and "
            "probe.at_datasets"
        )
    todo = plan(run, config, stages_of(stage))
    if stage in ("run", MILESTONES):
        todo = with_milestones(todo, run, config)
    for name in config.extract.datasets if stage in ("probe", "run") else ():
        if sentence := left_out(config.probe, name):
            sys.stderr.write(f"trex: {sentence}\n")
    for skipped in todo.done:
        sys.stderr.write(f"trex: {skipped}: nothing to do\n")
    return backend(cluster.kind).launch(run, config, cluster, todo.specs, processes, dry_run, verbose)


def retry(target: str, cluster_name: str | None, dry_run: bool, verbose: bool = False) -> ExitCode:
    """Submit the jobs again that failed, disappeared or are missing, in all stages that were submitted for a run, and
    at its milestones. If it ran on this machine only, run them here.

    Raises:
        UserError: if no stage was started.
    """
    run, config = open_run(target)
    require_readable_jobs(run)
    submissions = Submission.of(run).strict()
    # A training submits the work at its milestones. This does not mean that the user wants the other datasets too.
    stages = list(dict.fromkeys(one.stage for one in submissions if not all(map(is_of_milestone, one.jobs))))
    if not submissions:
        return _retry_here(run, config, target, dry_run, verbose)
    cluster = load_cluster(cluster_name) if cluster_name else read_cluster(run.cluster)
    try:
        todo = with_milestones(plan(run, config, stages), run, config)
    except UserError as error:  # other features exist; the training can continue nevertheless
        todo = plan(run, config, [stage for stage in stages if stage == "train"])
        if not todo.specs:
            raise
        sys.stderr.write(f"trex: submitting only the training: {error}\n")
    return backend(cluster.kind).launch(run, config, cluster, todo.specs, None, dry_run, verbose)


def _retry_here(run: RunDir, config: Config, target: str, dry_run: bool, verbose: bool) -> ExitCode:
    """Run the stages again that were started on this machine, the training with as many processes as last time."""
    starts = [event for event in read_events(run.events).records if isinstance(event, AttemptStarted)]
    if not starts:
        raise UserError(f"{run.root}: no stage was started yet; `trex run {target}` starts them")
    cluster = read_cluster(run.local_cluster)
    specs = with_milestones(plan(run, config, list(dict.fromkeys(one.stage for one in starts))), run, config).specs
    world = next((one.world for one in reversed(starts) if one.stage == "train"), None)
    processes = world if any(spec.stage == "train" for spec in specs) else None
    return backend(cluster.kind).launch(run, config, cluster, specs, processes, dry_run, verbose)
