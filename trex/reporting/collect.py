"""Reads the files of runs for the report. Missing values stay missing; unreadable files and lines are listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from trex.config import Config, load
from trex.errors import TrexError, UserError
from trex.probing.kind import kinds_of, left_out
from trex.probing.predictions import Predictions
from trex.probing.rankings import Rankings, read_predictions_of
from trex.records.attempts import Start, Usage, attempts, usage
from trex.records.base import RecordError
from trex.records.events import Event, read_events
from trex.records.metrics import MetricsLine
from trex.records.probe_result import ProbeResult
from trex.records.run_dir import RunDir, dataset_folder
from trex.records.stage import Stage
from trex.records.submission import Submission
from trex.reporting.cell import Cell, Found
from trex.reporting.metric import TOP1, Metric
from trex.reporting.statistics import Interval, mean_of_intervals

#: The datasets of the published average, in the order of the published table. Do not change this list: averages would
#: no longer be comparable with those of other runs and of the paper. Tables also show other datasets.
PUBLISHED_AVERAGE = (
    "cog_l1", "cog_l2", "cog_l3", "cog_l4", "cog_l5", "aircraft", "cars196", "dtd", "eurosat", "flowers", "pets",
    "food101", "sun397", "inat2018", "inat2019",
)  # fmt: skip

#: The first columns of a table: the columns of the published table.
FIRST_COLUMNS = ("in1k", *PUBLISHED_AVERAGE)


@dataclass
class RunData:
    """The data of one run for the report."""

    run: RunDir
    config: str  #: content of the config file, "" if there is none
    metrics: tuple[MetricsLine, ...]
    events: tuple[Event, ...]
    usage: dict[Stage, Usage] = field(default_factory=dict)  #: what each stage that started used
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)  #: by (kind of probe, dataset)
    #: Results at milestones: by epoch, then as `cells`.
    milestones: dict[int, dict[tuple[str, str], Cell]] = field(default_factory=dict)
    wanted: dict[tuple[str, str], int] = field(default_factory=dict)  #: seeds in the config, per cell
    #: One sentence per dataset on which not all kinds of the config can be fitted.
    left_out: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)  #: one message per file or line that was left out, with the reason
    #: Why a cell has no predictions. At a milestone, the name of the dataset ends with it.
    untested: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name


def collect(run: RunDir, starts: Mapping[str, Sequence[Start]] | None = None) -> RunData:
    """Read a run's files.

    Args:
        run: the run.
        starts: what accounting recorded about the starts of each of its jobs, oldest first.

    Raises:
        UserError: if the run does not exist.
    """
    if not run.root.is_dir():
        raise UserError(f"{run.root}: this run does not exist")
    config = run.config.read_text(encoding="utf-8") if run.config.exists() else ""
    metrics, events = MetricsLine.read_lines(run.metrics), read_events(run.events)
    data = RunData(run, config, metrics.records, events.records)
    data.damaged += [str(error) for error in (*metrics.damaged, *events.damaged)]
    # The job files are private to their owner: for others, the jobs in the history count.
    data.usage = usage(attempts(events.records, starts), Submission.of(run).records, starts)
    data.cells = _results(run, data)
    data.milestones = {epoch: _results(run.at(epoch), data) for epoch in run.evaluated_milestones()}
    try:
        asked = load(run.config, Config)
    except (OSError, TrexError):
        return data
    data.wanted = _wanted(asked)
    data.left_out = [line for name in asked.extract.datasets if (line := left_out(asked.probe, name))]
    return data


def _results(run: RunDir, data: RunData) -> dict[tuple[str, str], Cell]:
    """Read the probe results of a run or of a milestone. Adds the messages to `data.damaged` and `data.untested`."""
    found: dict[tuple[str, str], list[ProbeResult]] = {}
    for path in sorted(run.probe_results(), key=_seed):
        try:
            result = ProbeResult.read(path)
            others = found.setdefault((result.probe, result.dataset), [])
            if problem := _misplaced(result, path, others):
                raise RecordError(f"{path}: {problem}")
            others.append(result)
        except (FileNotFoundError, RecordError) as error:
            data.damaged.append(str(error))
    return {
        key: Cell(tuple(results), _predictions(run, results, data.untested))
        for key, results in found.items()
        if results
    }


def _predictions(run: RunDir, results: Sequence[ProbeResult], untested: dict[tuple[str, str], str]) -> Found:
    """The predictions of each result of a cell. Results with the same predictions share one object.

    None, and a message in `untested`, if those of a result are missing or damaged, or if the test images differ.
    """
    shared: dict[str, Predictions | Rankings] = {}
    try:
        if len({result.provenance.test_images for result in results}) > 1:
            raise UserError("its seeds have different test images")
        for one in results:
            found = read_predictions_of(one, run.probe(one.dataset, one.probe, one.seed))
            shared.setdefault(one.predictions, found)
    except UserError as error:
        at = "" if run.milestone is None else f" after epoch {run.milestone}"
        untested[results[0].probe, results[0].dataset + at] = str(error)
        return ()
    return tuple(shared[one.predictions] for one in results)


def _misplaced(result: ProbeResult, path: Path, others: Sequence[ProbeResult]) -> str | None:
    """Why a result does not belong to its path or to the results of other seeds; None if it does."""
    try:
        expected = (dataset_folder(result.dataset), result.probe, result.seed)
    except UserError as error:
        return f"has an invalid dataset name: {error}"
    if expected != (path.parts[-3], path.parts[-2], _seed(path)[1]):
        return f"is the result of {result.dataset}, {result.probe}, seed {result.seed}"
    if others and result.classes != others[0].classes:
        return f"has other classes than seed {others[0].seed}"
    if others and result.test.multi_label != others[0].test.multi_label:
        return f"has other scores than seed {others[0].seed}"
    return None


def _wanted(config: Config) -> dict[tuple[str, str], int]:
    seeds = range(config.probe.seeds)
    return {
        (kind.name, name): sum(map(kind.runs, seeds))
        for name in config.extract.datasets
        for kind in kinds_of(config.probe, name)
    }


def probe_kinds(runs: Sequence[RunData]) -> list[str]:
    """The kinds of probes with results in any of the runs, sorted by name."""
    return sorted({kind for run in runs for kind, _ in run.cells})


def datasets(runs: Sequence[RunData], kind: str) -> list[str]:
    """The datasets that a run has results on or that its config asks for: first the published table's, in its order."""
    present = {dataset for run in runs for found, dataset in (*run.cells, *run.wanted) if found == kind}
    known = [name for name in FIRST_COLUMNS if name in present]
    return known + sorted(present - set(known))


@dataclass(frozen=True)
class Average:
    """The mean of a score over datasets, and the mean log-odds of the top-1 accuracy or mAP."""

    mean: float | None  #: in the unit of `Scores`; None without results
    interval: Interval | None  #: of `mean`, over the test images of the datasets; None if that of a dataset is missing
    log_odds: float | None
    count: int  #: datasets with results
    of: int  #: datasets in total, with and without results


def average(run: RunData, kind: str, names: Sequence[str], metric: Metric = TOP1) -> Average:
    """The average over the datasets that have results: those of the published average if `names` has a column of the
    published table, otherwise all of `names`. A metric of multi-label datasets is averaged over these."""
    wanted = PUBLISHED_AVERAGE if any(name in FIRST_COLUMNS for name in names) else tuple(names)
    if metric.multi_label:
        wanted = tuple(name for name in names if (kind, name) in run.cells and run.cells[kind, name].multi_label)
    cells = [run.cells[kind, name] for name in wanted if (kind, name) in run.cells]
    found = [one for cell in cells if (one := cell.estimate(metric)) is not None]
    if not found:
        return Average(None, None, None, 0, len(wanted))
    intervals = [one.interval for one in found if one.interval is not None]
    interval = mean_of_intervals(intervals) if len(intervals) == len(found) else None
    log_odds = mean(cell.log_odds for cell in cells)
    return Average(mean(one.value for one in found), interval, log_odds, len(found), len(wanted))


def _seed(path: Path) -> tuple[str, int]:
    """The folder of a result file and its seed, to sort by."""
    number = path.stem.removeprefix("seed_")
    return str(path.parent), int(number) if number.isdecimal() else -1
