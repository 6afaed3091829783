"""Slurm as a back end: what `kind: slurm` in a cluster file means."""

from __future__ import annotations

import contextlib
import fcntl
import sys
from collections.abc import Iterator, Sequence

from jobs import programs
from jobs.backend import Answers, Backend, Finding, QueuedJob, Start
from jobs.plan.cluster import Cluster
from jobs.plan.memory import require_memory
from jobs.plan.runs import save_config
from jobs.plan.spec import TaskSpec
from jobs.plan.stages import is_reported, missing_data
from jobs.slurm import KIND, check, limits, queue, variables
from jobs.slurm.chain import Chain, Send
from jobs.slurm.held import held_jobs, held_jobs_of, settled_jobs
from jobs.slurm.ids import JobId
from jobs.slurm.work import Work
from jobs.worker.place import Task
from trex.config import Config
from trex.config.loader import to_yaml
from trex.errors import ExitCode, RunLocked, TrexError, UserError
from trex.files import write_text
from trex.records.lock_owner import LockOwner
from trex.records.run_dir import RunDir
from trex.records.submission import Submission


class Slurm:
    """Jobs in the queue of a Slurm cluster."""

    title = "Slurm"

    def answers(self) -> bool:
        """Whether sbatch is installed and the controller answers."""
        version = programs.run(["sbatch", "--version"], timeout=10)
        return version.ok and programs.run(["sinfo", "--noheader"], timeout=10).ok

    def problems(self, cluster: Cluster) -> Iterator[tuple[str, str]]:
        """Times and options of a cluster file that sbatch would not take, or must not be given."""
        return limits.problems(cluster)

    def check(self, run: RunDir, config: Config, cluster: Cluster) -> Iterator[Finding]:
        """Ask Slurm whether it would take the job of each stage."""
        return check.findings(run, cluster)

    def launch(
        self, run: RunDir, config: Config, cluster: Cluster, specs: Sequence[TaskSpec], processes: int | None,
        dry_run: bool,
    ) -> ExitCode:  # fmt: skip
        """Submit what is not in the queue; a dry run prints the batch scripts."""
        if processes is not None:
            raise UserError("--processes is for this machine; on Slurm the cluster file says nodes and tasks_per_node")
        if any(spec.stage == "probe" for spec in specs):
            require_memory(config, cluster)
        if missing := missing_data(config, specs):
            listed = ", ".join(f"{name} ({folder})" for name, folder in missing.items())
            _say(f"warning: datasets that this machine does not have where they are looked for: {listed}")
        if [spec.stage for spec in specs] == ["report"] and is_reported(run):
            specs = []  # nothing new to report on
        if not specs:
            _say(f"{run.name}: nothing is missing")
        (_print if dry_run else _submit)(run, config, cluster, specs)
        return ExitCode.DONE

    def ask(self, runs: Sequence[RunDir]) -> Answers:
        """One squeue and one sacct for all jobs of `runs`; none of them if nothing was submitted."""
        submissions = {run.root: Submission.of(run).records for run in runs}
        mine = [one for of_run in submissions.values() for one in of_run if one.backend == KIND]
        submitted = {JobId.parse(job) for one in mine for job in one.jobs.values()}
        if not submitted:
            return Answers({}, {})
        try:
            held = held_jobs(submissions)
        except TrexError:
            return Answers({}, {}, silent=(self.title,))
        past = queue.past_starts(submitted)
        starts: dict[str, Sequence[Start]] = {}
        for job in submitted:
            # An array that was cancelled as a whole, before its elements were jobs, has one line.
            starts[str(job)] = past.get(job) or past.get(JobId(job.array), [])
        return Answers(held, starts)

    def queued(self, run: RunDir) -> list[QueuedJob]:
        """The jobs of a run that Slurm still holds, oldest first."""
        return held_jobs_of(run)

    def cancel(self, run: RunDir) -> list[str]:
        """Cancel the jobs of a run, arrays as a whole."""
        held = self.queued(run)
        queue.cancel(JobId.parse(job.job).array for job in held)
        return [job.key for job in held]

    def owner_lives(self, owner: LockOwner, task: Task) -> bool:
        """Whether a job that took a lock is started: any node may ask Slurm."""
        if (owner.backend, owner.job) == (task.backend, task.job_id):
            return owner.restart >= task.restart  # an earlier start of this very job has ended
        try:
            return queue.holds_nodes(owner.job)
        except TrexError as error:
            raise RunLocked(
                f"held by Slurm job {owner.job}, and squeue does not say whether it still works ({error})"
            ) from error

    def addresses(self, node: str) -> list[str]:
        """The address by which Slurm itself reaches a node."""
        address = queue.node_address(node)
        return [address] if address else []

    def leave_job(self) -> None:
        """Drop the variables of an allocation or a job step from this process."""
        variables.leave_allocation()


def _print(run: RunDir, _config: Config, cluster: Cluster, specs: Sequence[TaskSpec]) -> None:
    """Print the batch scripts; creates nothing."""
    from jobs.slurm.submit import Submitter, array_size

    submitter = Submitter(run, cluster)

    def send(work: Work) -> dict[str, JobId]:
        sys.stdout.write(f"# ---- would be submitted: {', '.join(work.keys)}\n{submitter.text(work)}\n\n")
        name = f"<{work.keys[0]}>"
        return {key: JobId(name, n if len(work.specs) > 1 else None) for n, key in enumerate(work.keys)}

    held: dict[str, QueuedJob] = {}
    with contextlib.suppress(TrexError):  # a dry run needs no Slurm
        held = settled_jobs(run) if specs else {}
    Chain(cluster, array_size(cluster), send, held).submit(specs)


def _submit(run: RunDir, config: Config, cluster: Cluster, specs: Sequence[TaskSpec]) -> None:
    from jobs.slurm.submit import Submitter, array_size, make_private

    submitter = Submitter(run, cluster)
    save_config(run, config)
    make_private(run.jobs)
    with _one_at_a_time(run):
        write_text(run.cluster, to_yaml(cluster))
        held = settled_jobs(run) if specs else {}
        Chain(cluster, array_size(cluster), _announced(submitter.submit), held).submit(specs)


def _announced(submit: Send) -> Send:
    """Submits, and says what was submitted."""

    def send(work: Work) -> dict[str, JobId]:
        jobs = submit(work)
        first = next(iter(jobs.values()))
        count = f" (array of {len(jobs)})" if len(jobs) > 1 else ""
        waits = f", waits for {' and '.join(map(str, work.waits))}" if work.waits else ""
        _say(f"{work.stage}: submitted as job {first.array}{count}{waits}")
        return jobs

    return send


@contextlib.contextmanager
def _one_at_a_time(run: RunDir) -> Iterator[None]:
    """Of two that submit the same run, the second sees what the first put into the queue."""
    with run.submitting_lock.open("w") as file:
        with contextlib.suppress(OSError):  # a file system without locks: a second job would end with LOCKED
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    sys.stderr.write(f"trex: {text}\n")


BACKEND: Backend = Slurm()
