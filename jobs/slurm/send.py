"""Hands a batch script to sbatch, so that the same work is never in the queue twice.

    jobs/slurm/submission_<token>.sh     the batch script, until its job id is known; then <job>_submission.sh
    jobs/slurm/submission_<token>.json   the record of the submission (trex/records/submission.py), still without ids

The reply of sbatch may be lost after Slurm has taken the job, and this program may be killed while it waits. The job is
then found again by its script and its comment: at once, or by the next submission of the run, which sees the two files.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobs.slurm import queue
from jobs.slurm.calls import PATIENT, is_busy, once
from jobs.slurm.ids import JobId
from trex.errors import TrexError, UserError
from trex.files import write_text
from trex.records.base import RecordError
from trex.records.run_dir import RunDir
from trex.records.submission import Submission

_SECONDS_FOR_SBATCH = 120.0


def send(run: RunDir, text: str, draft: Submission, cluster: str) -> dict[str, JobId]:
    """Submit a batch script and record that.

    Args:
        run: the run folder.
        text: the batch script.
        draft: what to record: with the path of the script, and empty job ids.
        cluster: name of the cluster; empty: the one of this machine.

    Returns:
        The job of each key.

    Raises:
        UserError: if Slurm rejects it; then nothing is left. TrexError: if Slurm does not answer.
    """
    script = Path(draft.script)
    draft.write(script.with_suffix(".json"))
    write_text(script, text)
    tries = 0
    for pause in (*PATIENT.pauses, None):
        answer = once(["sbatch", "--parsable", str(script)], cluster, _SECONDS_FOR_SBATCH)
        tries += 1
        if answer.ok and (reply := re.search(r"^(\d+)(?:;(\S+))?$", answer.stdout, re.MULTILINE)):
            if tries > 1:  # an earlier try that seemed lost may have arrived
                queue.cancel(set(_found(draft, cluster)) - {reply[1]}, cluster)
            return _accepted(run, draft, reply[1], reply[2] or draft.cluster)
        if answer.code in (126, 127):
            _discard(script)
            raise UserError(
                f"{answer.stderr}: Slurm is not installed on this machine; use --cluster local to run without it"
            )
        if is_busy(answer) and pause is not None:
            sys.stderr.write(f"trex: sbatch: {_one_line(answer.stderr)}; trying again in {pause:g} s\n")
        time.sleep(pause or 0.0 if is_busy(answer) else 0.0)
        if found := _found(draft, cluster):
            return _accepted(run, draft, found[0], draft.cluster)
        if not is_busy(answer):
            _discard(script)
            raise UserError(f"Slurm rejected the {draft.stage} job: {answer.stderr.strip()}\n{_advice(answer.stderr)}")
    _discard(script)
    raise TrexError(f"Slurm did not accept the {draft.stage} job after {tries} tries: {answer.stderr.strip()}")


def recover(run: RunDir) -> None:
    """Record the jobs that Slurm took although the submission did not end, as after Ctrl-C.

    Raises:
        TrexError: if Slurm does not answer.
    """
    for path in sorted(run.slurm_jobs.glob("submission_*.json")):
        try:
            draft = Submission.read(path)
        except (RecordError, FileNotFoundError):  # it was killed while it wrote, before it called sbatch
            _discard(path)
            continue
        cluster = queue.to_ask(draft.cluster)
        found = _found(draft, cluster)
        if not found:
            _discard(path)
            continue
        sys.stderr.write(f"trex: {draft.stage}: an earlier command submitted job {found[0]}, and did not record it\n")
        _accepted(run, draft, found[0], draft.cluster)


def _found(draft: Submission, cluster: str) -> Sequence[str]:
    """Return the ids of the jobs or arrays with this script in the queue, also of those that have ended since."""
    try:
        entries = queue.entries(cluster, ended=True)
    except TrexError as error:
        raise TrexError(
            f"it is not known whether Slurm took the {draft.stage} job, because sbatch and squeue do not answer "
            f"({error}). When Slurm is back, run the same command again: it finds the job, if there is one"
        ) from error
    return list(dict.fromkeys(one.id.array for one in entries if one.belongs_to(draft.comment, draft.script)))


def _accepted(run: RunDir, draft: Submission, job: str, cluster: str) -> dict[str, JobId]:
    """Record the submission with its job ids."""
    several = len(draft.jobs) > 1
    jobs = {key: JobId(job, number if several else None) for number, key in enumerate(draft.jobs)}
    named = {key: str(one) for key, one in jobs.items()}
    replace(draft, jobs=named, cluster=cluster).append(run.submissions)
    script = Path(draft.script)
    script.with_suffix(".json").unlink(missing_ok=True)
    script.rename(script.with_name(f"{job}_submission.sh"))
    return jobs


def _discard(path: Path) -> None:
    for suffix in (".json", ".sh"):
        path.with_suffix(suffix).unlink(missing_ok=True)


def _one_line(text: str) -> str:
    return "; ".join(text.strip().splitlines())


def _advice(message: str) -> str:
    if "MaxSubmitJob" in message or "max_submit" in message.lower() or "QOSMaxSubmit" in message:
        return "You have reached the site's limit of jobs in the queue; submit again when some have ended."
    return "`trex check CONFIG --cluster NAME` shows which stage of the cluster file Slurm rejects."
