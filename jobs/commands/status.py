"""`trex status`: prints the stages, progress, restarts and goodput of each run."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence

from jobs.plan.known_runs import folders, remembered
from jobs.plan.runs import open_run, require_readable_jobs
from jobs.run_status import MILESTONES, RunStatus, StageStatus, status_of
from jobs.submissions import ask
from trex.config import Config
from trex.errors import ExitCode, TrexError, UserError
from trex.records.run_dir import RunDir
from trex.wording import counted, one_line

_WATCH_SECONDS = 30


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `trex status`."""
    status = commands.add_parser(
        "status",
        help="show each run: stages, step, speed, time left, restarts, goodput",
        description="Show the status of each run: the state of its stages, epoch and step, images/s, time left, the "
        "restarts and their reasons, goodput, the share of the training's allocated time that was spent on steps "
        "that were kept, and the GPU-hours, core-hours and energy of each stage. A stage whose job left the queue "
        "before it finished is shown as GONE, with the command that continues the run.",
    )
    status.add_argument("runs", nargs="*", metavar="RUN", help="run folders or names (default: all runs here)")
    status.add_argument("--watch", action="store_true", help=f"update every {_WATCH_SECONDS} s")
    status.add_argument("--json", action="store_true", help="print JSON, for scripts")
    status.set_defaults(handler=_status)


def _status(args: argparse.Namespace) -> int:
    while True:
        found = collect(args.runs)
        text = json.dumps([_plain(one) for one in found], indent=2) if args.json else as_text(found)
        if args.watch and not args.json:
            sys.stdout.flush()
            sys.stdout.buffer.write(b"\x1b[2J\x1b[H")  # clears the terminal
            sys.stdout.buffer.flush()
            sys.stdout.write(time.strftime("%H:%M:%S") + "\n")
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        if not args.watch:
            return ExitCode.DONE
        time.sleep(_WATCH_SECONDS)


def collect(targets: Sequence[str]) -> list[RunStatus]:
    """Return the status of the given runs, or of all. Of these, names and leaves out what is unreadable.

    Raises:
        UserError: if a given run does not exist, or is private to another user.
    """
    runs: list[tuple[RunDir, Config]] = []
    for target in targets or _all_runs():
        with _left_out(target, asked_for=bool(targets)):
            run, config = open_run(target)
            require_readable_jobs(run)
            if not run.config.exists():
                raise UserError(f"{run.root}: this run does not exist yet")
            runs.append((run, config))
    answers = ask([run for run, _ in runs])
    for title in answers.silent:
        sys.stderr.write(f"trex: {title} does not answer: showing only what the runs' own files contain\n")
    for what in answers.unknown:
        sys.stderr.write(f"trex: {what}; times and restarts are those that the runs recorded\n")
    found = []
    for run, config in runs:
        with _left_out(str(run.root), asked_for=bool(targets)):
            found.append(status_of(run, config, answers))
    for problem in (problem for one in found for problem in one.damaged):
        sys.stderr.write(f"trex: left out: {problem}\n")
    return found


def _all_runs() -> list[str]:
    """Return the folders of the runs here and in the default folder, or if there are none, of all that were started."""
    found = {run.root.resolve(): str(run.root) for folder in folders() for run in RunDir.below(folder)}
    if not found and (others := remembered()):
        sys.stderr.write("trex: no runs here: showing those that were started in other folders\n")
        return list(map(str, others))
    return list(found.values())


@contextlib.contextmanager
def _left_out(name: str, asked_for: bool) -> Iterator[None]:
    """Print why a run is left out if the block fails, for example for lack of rights. With `asked_for`, raise it."""
    try:
        yield
    except (TrexError, OSError) as error:
        if asked_for:
            raise
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        sys.stderr.write(f"trex: left out: {name}: {why}\n")


def as_text(runs: Sequence[RunStatus]) -> str:
    """Format the runs, with a few lines per run."""
    if not runs:
        return "no runs yet"
    blocks = []
    for run in runs:
        lines = [one_line(run.name)]
        for stage in run.stages:
            lines += [f"  {_stage_line(run, stage)}", *(f"    {line}" for line in _stuck_lines(stage))]
        if run.restarts:
            lines.append(f"  restarted {counted(run.restarts, 'time')}: {'; '.join(map(one_line, run.stops[-3:]))}")
        if run.saves:
            lines.append(f"  {run.saves}")
        if run.goodput is not None:
            lines.append(
                f"  goodput {100 * run.goodput:.0f} % of {_clock(run.allocated_seconds)} allocated to the training"
            )
        if run.changes:
            lines.append(f"  its starts differ: {one_line('; '.join(run.changes))}")
        if used := [f"{stage} {words}" for stage, one in run.usage.items() if (words := one.words())]:
            lines.append(f"  used: {'; '.join(used)}")
        if run.advice:
            lines.append(f"  continue with: {one_line(run.advice)}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


_SHOWN = {"open": "not started", "gone": "GONE", "failed": "FAILED"}


def _stuck_lines(stage: StageStatus) -> list[str]:
    """Return a line for each reason why parts of a stage do not go on, if there are several such parts."""
    if len(stage.stuck) < 2:
        return []
    parts: dict[tuple[str, str], list[str]] = {}
    for part in stage.stuck:
        job = f" (job {part.job})" if part.job else ""
        parts.setdefault((_SHOWN.get(part.state, part.state), part.why), []).append(f"{part.key}{job}")
    return [
        one_line(f"{state}: {', '.join(keys)}" + (f": {why}" if why else "")) for (state, why), keys in parts.items()
    ]


def _stage_line(run: RunStatus, stage: StageStatus) -> str:
    state = _SHOWN.get(stage.state, stage.state)
    job = next((part.job for part in stage.parts if part.state == stage.state and part.job), None)
    width = 1 + max(7, *(len(one.stage) for one in run.stages))
    words = [f"{stage.stage:{width}}{state:12}"]
    if stage.stage == "train":
        words += _progress(run, stage.state == "running")
    elif len(stage.parts) > 1 or stage.stage in ("extract", "probe", MILESTONES):
        words.append(f"{stage.done}/{len(stage.parts)} done")
    if stage.state != "done" and len(stage.stuck) < 2:
        words += [f"job {job}" if job else "", one_line(stage.why)]
    return ", ".join(word for word in words if word).replace(" ,", "  ", 1).rstrip()


def _progress(run: RunStatus, running: bool) -> list[str]:
    words = []
    if run.epoch is not None:
        words.append(f"epoch {run.epoch:.1f}/{run.epochs}")
    if run.step is not None:
        words.append(f"step {run.step}/{run.steps or '?'}")
    if running and run.images_per_second is not None:
        words.append(f"{run.images_per_second:.0f} images/s")
        if run.seconds_left is not None:
            words.append(f"finishes in {_clock(run.seconds_left)}")
    return words


def _clock(seconds: float) -> str:
    days, rest = divmod(round(seconds), 86400)
    clock = f"{rest // 3600:d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def _plain(run: RunStatus) -> dict[str, object]:
    """Return a run as JSON values."""
    values = dataclasses.asdict(run)
    values["stages"] = {
        stage.stage: {
            "state": stage.state, "done": stage.done, "of": len(stage.parts),
            "parts": [dataclasses.asdict(part) for part in stage.parts],
        }
        for stage in run.stages
    }  # fmt: skip
    more = {"allocated_seconds": run.allocated_seconds, "goodput": run.goodput, "advice": run.advice}
    return {**values, **more}
