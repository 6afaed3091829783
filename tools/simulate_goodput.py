"""Predicts the goodput of a training on N nodes: the share of its allocated time that is spent on steps that are kept.

    python tools/simulate_goodput.py --nodes 1 16 256 --every auto 10 --save 2 --start 60
    python tools/simulate_goodput.py --from runs/trex_star --nodes 1 16 256      # the times and rates of a real run

Each repetition draws one training with a given time of steps: its failures, preemptions, waits, start-up times and
saves, one after the other. A failure costs the steps since the last save and the time until it is noticed, a preemption
or the time limit costs a save, and both cost a wait and a start. Goodput is that of `trex status` (jobs/run_status.py):
start-up, validation, saves, steps that are done again and the time until a failure is noticed are allocated but not
useful; the wait in the queue is not allocated. An option with several values draws one of them each time.

Not simulated: steps whose time varies, failures that come together, and what grows with the number of nodes other than
the rate of failures (docs/scale.md says what does; call this program once per size, with the times of that size).
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.commands.status import collect
from jobs.plan.runs import open_run
from jobs.submissions import ask
from trex.errors import ExitCode, TrexError
from trex.records.attempts import Attempt, training_attempts
from trex.records.events import IntervalChosen, read_events
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.records.submission import Submission
from trex.training.interval import NODE_HOURS, UNTIL_MEASURED, History, chosen_interval

Values = tuple[float, ...]  #: seconds; one of them is drawn each time

#: The options that may have several values.
_DRAWN = ("save", "start", "end", "validation", "detect", "queue")

#: How many saves `auto` averages, as in trex/training/interval.py.
_SAVES = 10


@dataclass(frozen=True)
class Times:
    """What a training takes, and what interrupts it."""

    steps: float = 360_000.0  #: seconds of all steps, each counted once
    epoch: float = 1800.0  #: seconds of the steps of an epoch
    save: Values = (2.0,)
    start: Values = (60.0,)  #: from the allocation to the first step
    end: Values = (5.0,)  #: from the last save to the end of the allocation
    validation: Values = (0.0,)  #: at the end of each epoch
    detect: Values = (60.0,)  #: from a failure to the end of the allocation
    queue: Values = (0.0,)  #: wait before each start
    limit: float = 86_400.0  #: from the start of a job to the signal before its time limit
    node_hours: float = NODE_HOURS  #: between two failures of a node
    stop_hours: float = float("inf")  #: of a job, between two preemptions with notice


@dataclass(frozen=True)
class Outcome:
    """How one simulated training went."""

    goodput: float
    wall_hours: float  #: from the first submission to the end
    failures: int
    stops: int


class Training:
    """One simulated training."""

    def __init__(self, times: Times, nodes: int, every: float | None, draw: random.Random) -> None:
        """
        Args:
            times: its times. The rate of failures is in proportion to the nodes.
            nodes: number of nodes.
            every: seconds between saves; 0: only at the end of an epoch; None: as `checkpoint.every_minutes: auto`.
            draw: the source of all chance.
        """
        self.times, self.nodes, self.draw = times, nodes, draw
        self.automatic = every is None
        self.every = UNTIL_MEASURED if every is None else every or float("inf")
        self.saved = 0.0  #: seconds of steps that are on disk
        self.saves: list[float] = []
        self.history = History()
        self.stops = 0

    def run(self) -> Outcome:
        """Start it until it has finished."""
        allocated = waited = 0.0
        while self.saved < self.times.steps:
            waited += self.draw.choice(self.times.queue)
            allocated += self.start()
        wall = (allocated + waited) / 3600
        return Outcome(self.times.steps / allocated, wall, self.history.failures, self.stops)

    def start(self) -> float:
        """Simulate one start. Returns its allocated seconds."""
        times, draw = self.times, self.draw
        fails = draw.expovariate(1) * 3600 * times.node_hours / self.nodes
        stops = min(draw.expovariate(1) * 3600 * times.stop_hours, times.limit)
        clock, position = draw.choice(times.start), self.saved
        if min(fails, stops) < clock:  # nothing but this time is lost
            self.stops += stops < fails
            return min(fails, stops) + draw.choice(times.detect if fails < stops else times.end)
        while True:
            at = min((int(position / times.epoch + 1e-9) + 1) * times.epoch, times.steps)  # the end of the epoch
            work = min(self.every, at - position)
            until = min(clock + work, fails, stops)
            clock, position = until, position + until - clock
            if at - position < 1e-6:
                clock, position = clock + draw.choice(times.validation), at
            save = draw.choice(times.save)
            if fails <= clock + save:
                self.history = self.history.plus(fails / 3600, self.nodes)
                self.history = replace(self.history, failures=self.history.failures + 1)
                return fails + draw.choice(times.detect)
            clock, self.saved = clock + save, position
            self.choose(save, clock)
            if position >= times.steps or stops <= clock:
                self.stops += position < times.steps
                self.history = self.history.plus(clock / 3600, self.nodes)
                return clock + draw.choice(times.end)

    def choose(self, save: float, clock: float) -> None:
        """Choose the interval after a save, as trex/training/interval.py does."""
        if self.automatic:
            self.saves = [*self.saves, save][-_SAVES:]
            between = self.history.plus(clock / 3600, self.nodes).hours_between_failures(self.nodes)
            self.every = chosen_interval(statistics.fmean(self.saves), 3600 * between)


def measured(run: RunDir, times: Times) -> Times:
    """Replace the times that the events, metrics and accounting of a run have. `detect` and `limit` are in none."""
    [status] = collect([str(run.root)])
    events = read_events(run.events).records
    attempts, starts = training_attempts(events), ask([run]).starts.get(run.root, {})
    lines = MetricsLine.read_lines(run.metrics).records
    last = next((line for line in reversed(lines) if line.phase == "train"), None)
    if not attempts or last is None or not last.epoch or not status.kept_seconds:
        raise TrexError(f"{run.root}: no step of its training is recorded")
    step = status.kept_seconds / last.step
    hours = sum(one.hours for one in attempts)
    ended = [one for one in attempts[:-1] if one.began is not None]
    failures = sum(one.failed for one in ended)
    queue = [
        max(one.start.time - before, 0.0) for one, before in zip(attempts, _ends_before(run, attempts), strict=True)
    ]
    around = []  # what accounting allocates beyond the records of an attempt: before the first and after the last
    for one in attempts:
        accounted = starts.get(one.start.job, [])
        if one.end is not None and one.start.restart < len(accounted):
            around.append(max(accounted[one.start.restart].seconds - one.hours * 3600, 0.0))
    waits = tuple(event.save_seconds for event in events if isinstance(event, IntervalChosen))
    return replace(
        times,
        steps=status.steps * step if status.steps else times.steps,
        epoch=last.step / last.epoch * step,
        node_hours=hours * attempts[-1].start.nodes / failures if failures else times.node_hours,
        stop_hours=hours / (len(ended) - failures) if len(ended) > failures else times.stop_hours,
        save=waits[-1:] or tuple(save.seconds for one in attempts for save in one.saves) or times.save,
        start=tuple(one.began.time - one.start.time for one in attempts if one.began is not None),
        end=tuple(around) or times.end,
        validation=_validations(lines, step) or times.validation,
        queue=tuple(queue),
    )


def _ends_before(run: RunDir, attempts: Sequence[Attempt]) -> list[float]:
    """The time since when each start waited: that of the submission, and then the last event of the start before."""
    submitted = [one.time for one in Submission.of(run).records if one.stage == "train"]
    first = submitted[0] if submitted else attempts[0].start.time
    return [first, *(one.start.time + 3600 * one.hours for one in attempts[:-1])]


def _validations(lines: Sequence[MetricsLine], step: float) -> Values:
    """How long each validation took: from the last line of its epoch, less the steps after that line."""
    pairs = [pair for pair in itertools.pairwise(lines) if pair[1].phase == "validation"]
    return tuple(max(after.time - before.time - (after.step - before.step) * step, 0.0) for before, after in pairs)


def table(times: Times, nodes: Sequence[int], every: Sequence[float | None], repeat: int, seed: int) -> str:
    """Simulate all combinations, and return the rows of a Markdown table, with 90 % intervals."""
    rows = [
        "| nodes | saves every | goodput, % | wall time, h | failures | stops |",
        "|---|---|---|---|---|---|",
    ]
    for count in nodes:
        for seconds in every:
            outcomes = [Training(times, count, seconds, random.Random(f"{seed} {one}")).run() for one in range(repeat)]
            label = "auto" if seconds is None else f"{seconds / 60:g} min" if seconds else "epoch"
            cells = [
                _interval([100 * one.goodput for one in outcomes]),
                _interval([one.wall_hours for one in outcomes]),
                f"{statistics.fmean(one.failures for one in outcomes):.1f}",
                f"{statistics.fmean(one.stops for one in outcomes):.1f}",
            ]
            rows.append(f"| {count} | {label} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _interval(values: Sequence[float]) -> str:
    """Mean, and the interval that holds nine of ten repetitions."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
    digits = 1 if statistics.fmean(values) >= 1 else 3
    return f"{statistics.fmean(values):.{digits}f} ({low:.{digits}f} – {high:.{digits}f})"


def _every(text: str) -> float | None:
    return None if text == "auto" else 60 * _positive(text, zero=True)


def _positive(text: str, zero: bool = False) -> float:
    number = float(text)
    if not (number > 0 or (zero and number == 0)) or number == float("inf"):
        raise ValueError
    return number


def _seconds(text: str) -> float:
    return _positive(text, zero=True)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--from",
        nargs="+",
        default=[],
        metavar="RUN",
        dest="runs",
        help="run folders; other options replace what they say",
    )
    add("--nodes", nargs="+", type=int, default=[1], metavar="N", help="numbers of nodes (default: 1)")
    add("--every", nargs="+", type=_every, default=[None], metavar="MINUTES",
        help="intervals of checkpoints: minutes, 0 for epochs only, or auto (default: auto)")  # fmt: skip
    add("--hours", type=_positive, help="hours of steps that the training has (default: 100)")
    add("--epoch-hours", type=_positive, help="hours of steps of an epoch, which ends with a save (default: 0.5)")
    for name, meaning in (
        ("save", "seconds that a save blocks the training (default: 2)"),
        ("start", "seconds from the allocation to the first step (default: 60)"),
        ("end", "seconds from the last save to the end of the allocation (default: 5)"),
        ("validation", "seconds of the validation after each epoch (default: 0)"),
        ("detect", "seconds from a failure to the end of the allocation (default: 60)"),
        ("queue", "seconds in the queue before each start (default: 0)"),
    ):
        add(f"--{name}", nargs="+", type=_seconds, metavar="SECONDS", help=meaning)
    add(
        "--limit",
        type=_positive,
        metavar="HOURS",
        help="hours until the signal before a job's time limit (default: 24)",
    )
    add("--node-hours", type=_positive, metavar="HOURS",
        help=f"mean hours between two failures of a node (default: {NODE_HOURS:g}, docs/adr/0030)")  # fmt: skip
    add(
        "--stop-hours",
        type=_positive,
        metavar="HOURS",
        help="mean hours between two preemptions with notice (default: none)",
    )
    add("--repeat", type=int, default=200, help="repetitions, from which the 90 %% intervals are taken (default: 200)")
    add("--seed", type=int, default=0, help="seed of all repetitions (default: 0)")
    found = parser.parse_args(words)
    if min([found.repeat, *found.nodes]) < 1:
        parser.error("--nodes and --repeat: expected 1 or more")
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Print the table, below the times that it was computed from."""
    args = _arguments(words)
    times = Times()
    try:
        every = [measured(open_run(run)[0], times) for run in args.runs]
    except (TrexError, OSError) as error:
        sys.stderr.write(f"simulate_goodput: {error}\n")
        return ExitCode.USER_ERROR
    if every:  # the first run says how long the training is; times are drawn from all of them
        joined: Mapping[str, Any] = {name: sum((getattr(one, name) for one in every), ()) for name in _DRAWN}
        times = replace(every[0], **joined)
    given: Mapping[str, Any] = {
        "steps": args.hours and 3600 * args.hours, "epoch": args.epoch_hours and 3600 * args.epoch_hours,
        "limit": args.limit and 3600 * args.limit, "node_hours": args.node_hours, "stop_hours": args.stop_hours,
        **{name: getattr(args, name) and tuple(getattr(args, name)) for name in _DRAWN},
    }  # fmt: skip
    times = replace(times, **{name: value for name, value in given.items() if value is not None})
    print(_shown(times), table(times, args.nodes, args.every, args.repeat, args.seed), sep="\n\n")
    return ExitCode.DONE


def _shown(times: Times) -> str:
    def mean(values: Values) -> str:
        return f"{statistics.fmean(values):.3g} s"

    rare = times.stop_hours == float("inf")
    preemptions = "no preemptions" if rare else f"a preemption every {times.stop_hours:.3g} h"
    return (
        f"{times.steps / 3600:.4g} h of steps, {times.epoch / 3600:.3g} h per epoch; means: a save {mean(times.save)}, "
        f"a start {mean(times.start)}, an end {mean(times.end)}, a validation {mean(times.validation)}, a failure is "
        f"noticed after {mean(times.detect)}, a wait {mean(times.queue)}; a node fails every {times.node_hours:.4g} h, "
        f"{preemptions}, time limit {times.limit / 3600:.3g} h"
    )


if __name__ == "__main__":
    sys.exit(main())
