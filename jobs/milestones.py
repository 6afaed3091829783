"""Evaluates what a run's milestones lack: the program that a training starts, `python -m jobs.milestones RUN KIND N`.

RUN is the run's folder, KIND the back end of the training and N its number of processes. Work that was submitted or has
failed before is left to the user (`trex retry`, `trex probe --milestones`), so that a job that fails at each milestone
is not started again at each of the next ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.backend import Backend, backend, read_cluster
from jobs.plan.milestones import missing
from jobs.plan.spec import Item, Stage, TaskSpec
from trex.config import Config, load
from trex.errors import ExitCode, TrexError
from trex.interruption import leave_signals_to_parent
from trex.records.job_state import JobState, State
from trex.records.run_dir import RunDir
from trex.records.submission import Submission


def evaluate(run: RunDir, kind: str, processes: int) -> ExitCode:
    """Submit the new work at the milestones, or do it here if the back end has no queue.

    Raises:
        TrexError: if it cannot be done.
    """
    config, one = load(run.config, Config), backend(kind)
    specs = new_work(run, config, kind)
    if not specs:
        return ExitCode.DONE
    cluster = read_cluster(run.cluster if one.has_queue else run.local_cluster)
    return one.launch(run, config, cluster, specs, None if one.has_queue else processes, dry_run=False)


def new_work(run: RunDir, config: Config, kind: str) -> list[TaskSpec]:
    """Return the missing work that was neither submitted to this back end nor has failed."""
    submitted = {key for one in Submission.of(run).records if one.backend == kind for key in one.jobs}
    specs = []
    for stage, items in missing(run, config).items():
        if new := tuple(item for item in items if _is_new(run, stage, item, submitted)):
            specs.append(TaskSpec(stage, str(run.root), new))
    return specs


def _is_new(run: RunDir, stage: Stage, item: Item, submitted: set[str]) -> bool:
    [key] = TaskSpec(stage, str(run.root), (item,)).keys
    before = JobState.of_or_none(run, key)
    return key not in submitted and (before is None or before.state is not State.FAILED)


def main(arguments: Sequence[str]) -> int:
    """Run the program. An error is one line on standard error."""
    root, kind, processes = arguments
    one: Backend = backend(kind)
    if one.has_queue:
        leave_signals_to_parent()  # a submission takes seconds, and half of one would be lost
    sys.stderr.write(f"trex: {time.strftime('%Y-%m-%d %H:%M:%S')} evaluating milestones\n")
    try:
        return int(evaluate(RunDir(Path(root)), kind, int(processes)))
    except (TrexError, OSError) as error:
        sys.stderr.write(f"trex: error: {' '.join(str(error).split())}\n")
        return int(error.exit_code if isinstance(error, TrexError) else ExitCode.FAULT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
