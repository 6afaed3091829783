"""Submits jobs to Slurm through submitit and writes their batch scripts."""

from __future__ import annotations

import json
import logging
import re
import secrets
import shlex
import sys
import time
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from jobs.plan.cluster import WORD, Cluster
from jobs.slurm import KIND, queue, start, verify
from jobs.slurm.ids import JobId
from jobs.slurm.limits import lead, names_gpus
from jobs.slurm.snapshot import code_digest, snapshot_of, take_snapshot
from jobs.slurm.variables import leave_allocation, sbatch_defaults
from jobs.slurm.work import Work, sbatch_dependency
from jobs.worker.attempts import MAX_STARTS_WITHOUT_PROGRESS
from trex.errors import ExitCode, TrexError, UserError
from trex.records.run_dir import RunDir
from trex.records.submission import Submission
from trex.records.typed import encode

#: Error messages of sbatch when the controller is busy or restarting. Trying again helps.
_TRANSIENT = (
    "Socket timed out", "Unable to contact slurm controller", "Connection refused", "Connection timed out",
    "Connection reset", "Resource temporarily unavailable", "Zero Bytes were transmitted", "Transport endpoint",
)  # fmt: skip
#: Pauses between the tries, in seconds.
_PAUSES = (1.0, 3.0, 9.0)


class Submitter:
    """Submits the jobs of one run to one cluster."""

    def __init__(self, run: RunDir, cluster: Cluster) -> None:
        """Raises UserError if a batch script cannot hold the run's path or the value of an SBATCH_ variable."""
        self.run, self.cluster = run, cluster
        self.folder = run.slurm_jobs
        self.defaults = sbatch_defaults()
        if not str(run.root).isprintable() or set("%\\") & set(str(run.root)):
            raise UserError(
                f"{str(run.root)!r}: Slurm cannot write logs there: choose a path without \\, % or control characters"
            )
        for option, value in self.defaults.items():
            if not re.fullmatch(WORD, value):
                raise UserError(f"SBATCH_{option.upper()} is {value!r}: expected one word without spaces or quotes")

    def text(self, work: Work) -> str:
        """Return the batch script of `work` as `submit` would write it. Creates no files."""
        executor = self._executor(work, code_digest(), comment=f"{self._label(work)}:<unique>")
        return str(executor._make_submission_file_text(start.command(self.cluster), "<unique>"))

    def submit(self, work: Work) -> dict[str, JobId]:
        """Submit `work`.

        Returns:
            The job of each key.

        Raises:
            UserError: if Slurm rejects it; TrexError: if Slurm does not answer. In both cases no job is left in the
                queue.
        """
        self.folder.mkdir(exist_ok=True, mode=0o700)
        code = take_snapshot(self.run)
        leave_allocation(to_submit=True)
        logging.getLogger("submitit").setLevel(logging.ERROR)
        comment = f"{self._label(work)}:{secrets.token_hex(6)}"
        ids = self._call_sbatch(work, self._executor(work, code, comment), comment)
        jobs = dict(zip(work.keys, ids, strict=True))
        Submission(
            round(time.time(), 3), KIND, work.stage, {key: str(job) for key, job in jobs.items()}, comment,
            code=snapshot_of(self.run, code).name, dependency=sbatch_dependency(work.waits),
        ).append(self.run.submissions)  # fmt: skip
        return jobs

    def _label(self, work: Work) -> str:
        return f"trex:{self.run.name}:{work.stage}"

    def _call_sbatch(self, work: Work, executor: submitit.SlurmExecutor, comment: str) -> list[JobId]:
        """Call sbatch, and try again if the controller is busy.

        The reply can be lost after Slurm accepted the job. Such a job is found by its comment and cancelled before the
        next try, so that the work is never submitted twice.
        """
        for pause in (*_PAUSES, None):
            try:
                job = str(executor._submit_command(start.command(self.cluster)).job_id)
                return [JobId(job, n if len(work.specs) > 1 else None) for n in range(len(work.specs))]
            except (FailedJobError, FailedSubmissionError) as error:
                message = str(error).strip()
            except FileNotFoundError as error:
                raise UserError(
                    "Slurm is not installed on this machine; use --cluster local to run without it"
                ) from error
            transient = any(word.lower() in message.lower() for word in _TRANSIENT)
            time.sleep(pause if transient and pause else 0)
            _cancel_all(comment)
            if not transient:
                raise UserError(f"Slurm rejected the {work.stage} job: {message}\n{_advice(message)}")
        raise TrexError(f"Slurm did not accept the {work.stage} job after {len(_PAUSES) + 1} tries: {message}")

    # ---- the batch script

    def _executor(self, work: Work, code: str, comment: str) -> submitit.SlurmExecutor:
        stage = self.cluster.stage(work.stage)
        executor = _Executor(self.folder)
        if len(work.specs) > 1:
            executor.parameters["map_count"] = len(work.specs)
        executor.update_parameters(
            job_name=f"{self.run.name}-{work.stage}", nodes=stage.nodes, ntasks_per_node=stage.tasks,
            cpus_per_task=stage.cpus_per_task,
            gpus_per_node=None if names_gpus(stage) else stage.gpus_per_node or None,
            array_parallelism=work.parallel or len(work.specs),
            stderr_to_stdout=True, wckey=None, comment=comment,
            setup=self._before(work, code), teardown=self._after(work),
            srun_args=_srun_arguments(stage.cpus_per_task), additional_parameters=self._options(work),
        )  # fmt: skip
        return executor

    def _options(self, work: Work) -> dict[str, object]:
        """Return the sbatch options for which submitit has no suitable parameter."""
        stage = self.cluster.stage(work.stage)
        values: dict[str, object] = {"time": stage.time, "signal": f"USR2@{lead(stage)}", "requeue": True}
        named = {"partition": stage.partition, "account": stage.account, "qos": stage.qos}
        values |= self.defaults | {key: value for key, value in named.items() if value}
        if stage.constraint:
            values["constraint"] = stage.constraint
        if stage.memory_gb:
            values["mem"] = f"{stage.memory_gb}G"
        if work.waits:
            values["dependency"] = sbatch_dependency(work.waits)
            values["kill-on-invalid-dep"] = "yes"  # otherwise the job would stay in the queue after a failure
        values |= {key: True if value == "yes" else value for key, value in stage.options.items()}
        return values

    def _before(self, work: Work, code: str) -> list[str]:
        # submit() takes these variables out of the job's environment. A job that submits others needs them again.
        defaults = [f"export SBATCH_{option.upper()}={shlex.quote(value)}" for option, value in self.defaults.items()]
        note = shlex.quote(str(self.run.not_started_prefix))
        specs = " ".join(shlex.quote(json.dumps(encode(spec))) for spec in work.specs)
        return [
            *defaults,
            "export SLURM_EXPORT_ENV=ALL  # pass this shell's environment on, even if sbatch ran with --export=NONE",
            f"trex_specs=({specs})  # the work, here and not in a file that somebody could replace",
            "echo \"$(date '+%F %T') job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, restart ${SLURM_RESTART_COUNT:-0}\"",
            *self.cluster.setup,
            "umask g-w,o-w  # nobody else may write what the job creates, such as the compiled files next to the code",
            "set +eu  # undo any `set -eu` above, because the lines after srun must run when it fails",
            *start.heredoc("trex_check", "verify.py", Path(verify.__file__).read_text(encoding="utf-8").splitlines()),
            *start.heredoc("trex_start", "start.sh", start.lines(self.run, self.cluster, code)),
            f"trex_launcher={shlex.quote(self.cluster.launcher)}",
            f"trex_note={note}-$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}  # why a process did not start",
        ]

    def _after(self, work: Work) -> list[str]:
        states = " ".join(shlex.quote(str(self.run.state_for_shell(key))) for key in work.keys)
        places = " ".join(shlex.quote(str(self.run.rendezvous_prefix(key))) for key in work.keys)
        lines = Path(__file__).with_name("requeue.sh").read_text(encoding="utf-8").rstrip().splitlines()
        again = work.command.format(shlex.quote(str(self.run.root)))
        return [
            "rc=$?",  # srun's exit code
            f"trex_states=({states})",
            f"trex_rendezvous=({places})",
            f"trex_continue={shlex.quote(again)}",
            f"trex_code_interrupted={int(ExitCode.INTERRUPTED)}",
            f"trex_code_superseded={int(ExitCode.SUPERSEDED)}",
            f"trex_code_unwritable={int(ExitCode.UNWRITABLE)}",
            f"trex_most_starts={MAX_STARTS_WITHOUT_PROGRESS}",
            *lines,
            "exit $rc",  # otherwise Slurm would record every job as COMPLETED
        ]


class _Executor(submitit.SlurmExecutor):
    """Also writes the script on a machine without Slurm, for a dry run."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def _srun_arguments(cpus_per_task: int) -> list[str]:
    return [
        "--kill-on-bad-exit=1",  # otherwise the other ranks would wait in a collective for a rank that died
        "--wait=0",  # some sites end a step soon after its first process has ended
        "--open-mode=append",
        f"--cpus-per-task={cpus_per_task}",  # since Slurm 22.05, srun does not take it from the batch script
    ]


def array_size(cluster: Cluster) -> int:
    """Return how many elements an array may have; 1 if the cluster has no arrays."""
    return min(queue.largest_array(), cluster.max_array_size or sys.maxsize)


def _cancel_all(comment: str) -> None:
    """Cancel the jobs that a failed call of sbatch left in the queue."""
    for _ in range(3):
        try:
            queue.cancel(str(entry.id) for entry in queue.entries() if entry.comment == comment)
            return
        except TrexError:
            time.sleep(2.0)
    raise TrexError(
        f"Slurm answers neither sbatch nor squeue, so it is not known whether the job was submitted. When Slurm is "
        f"back, run `squeue --me --format '%i %k'`. If it lists a job with the comment {comment}, cancel that job with "
        f"scancel before you submit again."
    )


def _advice(message: str) -> str:
    if "MaxSubmitJob" in message or "max_submit" in message.lower() or "QOSMaxSubmit" in message:
        return "You have reached the site's limit of jobs in the queue; submit again when some have ended."
    return "`trex check CONFIG --cluster NAME` shows which stage of the cluster file Slurm rejects."
