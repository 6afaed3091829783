"""The back end that `kind: slurm` in a cluster file selects."""

from __future__ import annotations

import contextlib
import fcntl
import sys
from collections.abc import Iterator, Sequence

from jobs import programs
from jobs.backend import Answers, Backend, Finding, QueuedJob
from jobs.plan.cluster import Cluster
from jobs.plan.memory import require_memory
from jobs.plan.rights import require_protected
from jobs.plan.runs import save_config
from jobs.plan.spec import STAGES, Stage, TaskSpec
from jobs.plan.stages import is_reported, missing_data, require_gpu
from jobs.slurm import check, limits, queue, start, variables
from jobs.slurm.calls import call, is_busy
from jobs.slurm.chain import Chain, Send
from jobs.slurm.ids import JobId
from jobs.slurm.queued import answers, by_cluster, queued_jobs, queued_jobs_of, settled_jobs
from jobs.slurm.send import recover
from jobs.slurm.work import Work
from jobs.worker.place import Task
from trex.config import Config
from trex.config.loader import to_yaml
from trex.errors import ExitCode, RunLocked, TrexError, UserError
from trex.files import write_text
from trex.records.lock_owner import LockOwner
from trex.records.run_dir import RunDir
from trex.records.submission import Submission
from trex.training.requirements import require_batch


class Slurm:
    """Runs jobs through the queue of a Slurm cluster."""

    title = "Slurm"
    has_queue = True

    def is_available(self) -> bool:
        """Return whether sbatch is installed and the controller answers.

        Raises:
            TrexError: if Slurm is installed and its controller does not answer now: the jobs belong there, not here.
        """
        if not programs.run(["sbatch", "--version"], timeout=10).ok:  # also without a configuration
            return False
        answer = call(["sinfo", "--noheader"])
        if is_busy(answer):
            raise TrexError(
                f"Slurm is installed here, but does not answer ({answer.stderr.strip()}): try again later, or compute "
                f"on this machine with --cluster local"
            )
        return answer.ok

    def problems(self, cluster: Cluster) -> Iterator[tuple[str, str]]:
        """Yield the times and options in a cluster file that sbatch would reject or that the toolkit sets itself."""
        return limits.problems(cluster)

    def check(self, run: RunDir, config: Config, cluster: Cluster) -> Iterator[Finding]:
        """Check the GPUs of the stages, and ask Slurm whether it would accept and ever start the job of each."""
        for stage in STAGES:
            try:
                _require_gpu(config, cluster, stage)
            except UserError as error:
                yield Finding(False, str(error))
        yield from start.findings(cluster)
        yield from check.findings(run, config, cluster)

    def launch(
        self, run: RunDir, config: Config, cluster: Cluster, specs: Sequence[TaskSpec], processes: int | None,
        dry_run: bool, verbose: bool = False,
    ) -> ExitCode:  # fmt: skip
        """Submit the jobs that are not in the queue yet. A dry run prints their batch scripts instead."""
        if processes is not None:
            raise UserError(
                "--processes works only on this machine; for Slurm, set nodes and tasks_per_node in the cluster file"
            )
        if any(spec.stage == "train" for spec in specs):
            require_batch(config, cluster.train.nodes * cluster.train.tasks, None)
        if probed := dict.fromkeys(item.dataset for spec in specs if spec.stage == "probe" for item in spec.items):
            require_memory(config, cluster, probed)
        for spec in specs:
            _require_gpu(config, cluster, spec.stage)
        if missing := missing_data(config, specs):
            listed = ", ".join(f"{name} ({folder})" for name, folder in missing.items())
            _say(f"warning: these datasets were not found on this machine: {listed}")
        if [spec.stage for spec in specs] == ["report"] and is_reported(run):
            specs = []  # nothing new to report on
        if not specs:
            _say(f"{run.name}: nothing is missing")
        if dry_run:
            _print(run, cluster, specs, verbose)
        else:
            _submit(run, config, cluster, specs)
        return ExitCode.DONE

    def ask(self, runs: Sequence[RunDir]) -> Answers:
        """Call squeue and sacct once per cluster that jobs of `runs` were submitted to."""
        return answers({run.root: Submission.of(run).records for run in runs}, self.title)

    def queued(self, run: RunDir) -> list[QueuedJob]:
        """Return the jobs of a run that are in the queue, oldest first."""
        return queued_jobs_of(run)

    def cancel(self, run: RunDir) -> list[str]:
        """Cancel all jobs of a run. Job arrays are cancelled as one job."""
        cancelled = []
        for name, group in by_cluster({run.root: Submission.of(run).strict()}).items():
            cluster = queue.to_ask(name)
            queued = queued_jobs(group, cluster).get(run.root, [])
            queue.cancel((JobId.parse(job.job).array for job in queued), cluster)
            cancelled += [job.key for job in queued]
        return cancelled

    def owner_is_alive(self, owner: LockOwner, task: Task) -> bool:
        """Return whether the job that took a lock has nodes allocated. Any node can ask Slurm this."""
        if (owner.backend, owner.job) == (task.backend, task.job_id):
            return owner.restart >= task.restart  # an earlier start of this same job has ended
        try:
            return queue.holds_nodes(owner.job, "" if owner.cluster == task.cluster else owner.cluster)
        except TrexError as error:
            raise RunLocked(
                f"held by Slurm job {owner.job}, and squeue could not say whether that job still runs ({error})"
            ) from error

    def addresses(self, node: str) -> list[str]:
        """Return the address that Slurm itself uses for a node."""
        address = queue.node_address(node)
        return [address] if address else []

    def leave_job(self) -> None:
        """Remove the environment variables of a Slurm allocation or job step from this process."""
        variables.leave_allocation()


def _print(run: RunDir, cluster: Cluster, specs: Sequence[TaskSpec], verbose: bool) -> None:
    from jobs.slurm.dry_run import DryRun
    from jobs.slurm.submit import Submitter

    submitter = Submitter(run, cluster)
    send = DryRun(submitter, verbose).send
    queued: dict[str, QueuedJob] = {}
    with contextlib.suppress(TrexError):  # a dry run works without Slurm
        queued = settled_jobs(run) if specs else {}
    Chain(cluster, submitter.array_size, send, queued).submit(specs)


def _submit(run: RunDir, config: Config, cluster: Cluster, specs: Sequence[TaskSpec]) -> None:
    from jobs.slurm.submit import Submitter

    submitter = Submitter(run, cluster)
    save_config(run, config)
    require_protected(run)
    with _one_at_a_time(run):
        write_text(run.cluster, to_yaml(cluster))
        recover(run)
        queued = settled_jobs(run) if specs else {}
        Chain(cluster, submitter.array_size, _announced(submitter.submit, cluster), queued).submit(specs)


def _announced(submit: Send, cluster: Cluster) -> Send:
    """Wrap `submit` so that each submission is also printed."""

    def send(work: Work) -> dict[str, JobId]:
        jobs = submit(work)
        first = next(iter(jobs.values()))
        count = f" (array of {len(jobs)})" if len(jobs) > 1 else ""
        waits = f", waits for {' and '.join(map(str, work.waits))}" if work.waits else ""
        options = cluster.resources(work.stage).options
        held = f", on hold until: scontrol release {first.array}" if "hold" in options else ""
        _say(f"{work.stage}: submitted as job {first.array}{count}{waits}{held}")
        return jobs

    return send


@contextlib.contextmanager
def _one_at_a_time(run: RunDir) -> Iterator[None]:
    """Hold a lock while submitting, so that a second command for the same run sees the jobs of the first."""
    with run.submitting_lock.open("w") as file:
        with contextlib.suppress(OSError):  # a file system without locks; a duplicate job would then end with LOCKED
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    sys.stderr.write(f"trex: {text}\n")


def _require_gpu(config: Config, cluster: Cluster, stage: Stage) -> None:
    remedy = f"the cluster file requests no GPU for the stage {stage}: set gpus_per_node: 1 there"
    require_gpu(config, stage, lambda: cluster.resources(stage).gpus_per_node, remedy)


BACKEND: Backend = Slurm()
