"""Submits jobs to Slurm through submitit and writes their batch scripts."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import submitit

from jobs.plan.cluster import WORD, Cluster
from jobs.slurm import KIND, queue, start, verify
from jobs.slurm.ids import JobId
from jobs.slurm.limits import lead, names_gpus
from jobs.slurm.send import send
from jobs.slurm.snapshot import code_digest, snapshot_of, take_snapshot
from jobs.slurm.variables import chosen_cluster, leave_allocation, sbatch_defaults
from jobs.slurm.work import Work, sbatch_dependency
from jobs.worker.attempts import MAX_STARTS_WITHOUT_PROGRESS
from trex.errors import ExitCode, UserError
from trex.records.run_dir import RunDir
from trex.records.submission import Submission
from trex.records.typed import encode

#: Codes of errors that a process of the job itself has found. Python ends with 1 too if it cannot start.
_ERRORS = (ExitCode.USER_ERROR, ExitCode.LOCKED, ExitCode.RESUME_REFUSED, ExitCode.NO_PROGRESS)


class Submitter:
    """Submits the jobs of one run to one cluster."""

    def __init__(self, run: RunDir, cluster: Cluster) -> None:
        """Raises UserError if a batch script cannot hold the run's path or the value of an SBATCH_ variable, or if
        SLURM_CLUSTERS names several clusters.
        """
        self.run, self.cluster = run, cluster
        self.folder = run.slurm_jobs
        self.defaults = sbatch_defaults()
        self.name = queue.to_ask(chosen_cluster(cluster.clusters))  #: of the Slurm cluster; empty: this machine's
        self.settings = queue.settings(self.name)
        if not str(run.root).isprintable() or set("%\\") & set(str(run.root)):
            raise UserError(
                f"{str(run.root)!r}: Slurm cannot write logs there: choose a path without \\, % or control characters"
            )
        for option, value in self.defaults.items():
            if not re.fullmatch(WORD, value):
                raise UserError(f"SBATCH_{option.upper()} is {value!r}: expected one word without spaces or quotes")

    @property
    def array_size(self) -> int:
        """How many elements an array may have; 1 if the cluster has no arrays."""
        return min(self.settings.largest_array, self.cluster.max_array_size or sys.maxsize)

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
        token = secrets.token_hex(6)
        comment = f"{self._label(work)}:{token}"
        draft = Submission(
            round(time.time(), 3), KIND, work.stage, dict.fromkeys(work.keys, ""), self.settings.name or self.name,
            comment, str(self.folder / f"submission_{token}.sh"), code=snapshot_of(self.run, code).name,
            dependency=sbatch_dependency(work.waits),
        )  # fmt: skip
        text = str(self._executor(work, code, comment)._make_submission_file_text(start.command(self.cluster), token))
        return send(self.run, text, draft, self.name)

    def _label(self, work: Work) -> str:
        return f"trex:{self.run.name}:{work.stage}"

    # ---- the batch script

    def _executor(self, work: Work, code: str, comment: str) -> submitit.SlurmExecutor:
        stage = self.cluster.resources(work.stage)
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
        stage = self.cluster.resources(work.stage)
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
        resources = self.cluster.resources(work.stage)
        staging = self.cluster.stage or ""
        specs = " ".join(shlex.quote(json.dumps(encode(replace(spec, staging=staging)))) for spec in work.specs)
        return [
            *defaults,
            f"export TREX_SIGNAL_LEAD={lead(resources)}  # the training warns if it is too short",
            "unset SLURM_CLUSTERS  # inside the job, Slurm's programs ask the cluster on which it runs",
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
        again = f"trex retry {shlex.quote(str(self.run.root))}"
        return [
            "rc=$?",  # srun's exit code
            f"trex_states=({states})",
            f"trex_rendezvous=({places})",
            f"trex_continue={shlex.quote(again)}",
            f"trex_code_interrupted={int(ExitCode.INTERRUPTED)}",
            f"trex_code_superseded={int(ExitCode.SUPERSEDED)}",
            f"trex_code_unwritable={int(ExitCode.UNWRITABLE)}",
            f"trex_code_lost={int(ExitCode.LOST)}",
            f"trex_codes_of_errors={shlex.quote(' '.join(str(int(code)) for code in _ERRORS))}",
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
