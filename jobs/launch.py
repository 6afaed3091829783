"""What of a run is to be done, handed to the back end that the cluster file names."""

from __future__ import annotations

import sys

from jobs.backend import backend, backends, load_cluster, read_cluster
from jobs.plan.cluster import Cluster
from jobs.plan.runs import open_run
from jobs.plan.stages import plan, require_files, stages_of
from trex.config import Config
from trex.errors import ExitCode, UserError
from trex.records.run_dir import RunDir
from trex.records.submission import Submission

_HERE = "local"


def choose_cluster(name: str | None) -> Cluster:
    """The cluster file of that name; without one, that of the first back end that answers, which this machine always
    does. Says which.
    """
    if name is not None:
        return load_cluster(name)
    others = {kind: one for kind, one in backends().items() if kind != _HERE}
    for kind, one in others.items():
        if one.answers():
            sys.stderr.write(f"trex: no cluster named: {one.title} answers here\n")
            return load_cluster(kind)
    missing = " or ".join(one.title for one in others.values())
    sys.stderr.write(f"trex: no cluster named: no {missing} here, using this machine\n")
    return load_cluster(_HERE)


def launch(run: RunDir, config: Config, cluster: Cluster, stage: str, processes: int | None, dry_run: bool) -> ExitCode:
    """Do a stage, or with `run` all of them, where `cluster` says: what of it is neither done nor in a queue.

    Returns:
        The exit code: of the job itself on this machine, of the submission on a cluster.
    """
    require_files(run, config, stage)
    config = cluster.adapt(config)
    todo = plan(run, config, stages_of(stage))
    for skipped in todo.done:
        sys.stderr.write(f"trex: {skipped}: nothing to do\n")
    return backend(cluster.kind).launch(run, config, cluster, todo.specs, processes, dry_run)


def retry(target: str, cluster_name: str | None, dry_run: bool) -> ExitCode:
    """Submit again what failed, disappeared or is missing of the stages that were ever submitted for a run.

    Raises:
        UserError: if none was.
    """
    run, config = open_run(target)
    stages = list(dict.fromkeys(one.stage for one in Submission.of(run).strict()))
    if not stages:
        raise UserError(f"{run.root}: none of its stages was ever submitted to a queue; `trex run {target}` does them")
    cluster = load_cluster(cluster_name) if cluster_name else read_cluster(run.cluster)
    try:
        todo = plan(run, config, stages)
    except UserError as error:  # of features that are in the way; the training continues all the same
        todo = plan(run, config, [stage for stage in stages if stage == "train"])
        if not todo.specs:
            raise
        sys.stderr.write(f"trex: all but the training left out: {error}\n")
    return backend(cluster.kind).launch(run, config, cluster, todo.specs, None, dry_run)
