"""Reads the files of runs for the report. Missing values stay missing; unreadable files and lines are listed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from trex.config import Config, load
from trex.errors import TrexError, UserError
from trex.probing.kind import kinds_of
from trex.records.base import RecordError
from trex.records.environment import Environment
from trex.records.events import Event, read_events
from trex.records.metrics import MetricsLine
from trex.records.probe_result import ProbeResult
from trex.records.run_dir import RunDir, dataset_folder

#: The datasets of the published average, in the order of the published table. Do not change this list: averages would
#: no longer be comparable with those of other runs and of the paper. Tables also show other datasets.
PUBLISHED_AVERAGE = (
    "cog_l1", "cog_l2", "cog_l3", "cog_l4", "cog_l5", "aircraft", "cars196", "dtd", "eurosat", "flowers", "pets",
    "food101", "sun397", "inat2018", "inat2019",
)  # fmt: skip

#: The first columns of a table: the columns of the published table.
FIRST_COLUMNS = ("in1k", *PUBLISHED_AVERAGE)


@dataclass(frozen=True)
class Cell:
    """The results of one run on one dataset with one kind of probe, for all seeds."""

    results: tuple[ProbeResult, ...]  #: one per seed, all with the same classes

    @property
    def top1(self) -> list[float]:
        """Top-1 test accuracies, fractions, one per seed."""
        return [result.test.top1 for result in self.results]

    @property
    def mean(self) -> float:
        """Mean top-1 test accuracy over the seeds, a fraction."""
        return mean(self.top1)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the top-1 accuracy over the seeds, a fraction; None for a single seed."""
        return stdev(self.top1) if len(self.results) > 1 else None

    @property
    def comparable(self) -> bool:
        """Whether the dataset is the official one, so that the result is comparable with published numbers."""
        return all(result.comparable for result in self.results)

    @property
    def mean_per_class(self) -> float:
        """Mean per-class accuracy, a fraction, averaged over the seeds."""
        return mean(result.test.mean_per_class for result in self.results)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self.results[0].classes

    @property
    def log_odds(self) -> float:
        """log(p / (1 - p)) of the mean accuracy p. For n test images, p is limited to 1/(2n) … 1 - 1/(2n), because the
        log-odds of 100 % would be infinite."""
        half = 0.5 / max(self.results[0].counts.test, 1)
        p = min(max(self.mean, half), 1 - half)
        return math.log(p / (1 - p))


@dataclass
class RunData:
    """The data of one run for the report."""

    run: RunDir
    config: str  #: content of the config file, "" if there is none
    metrics: tuple[MetricsLine, ...]
    events: tuple[Event, ...]
    environment: Environment | None
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)  #: by (kind of probe, dataset)
    #: Results at milestones: by epoch, then as `cells`.
    milestones: dict[int, dict[tuple[str, str], Cell]] = field(default_factory=dict)
    wanted: dict[tuple[str, str], int] = field(default_factory=dict)  #: seeds in the config, per cell
    damaged: list[str] = field(default_factory=list)  #: one message per file or line that was left out, with the reason

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name


def collect(run: RunDir) -> RunData:
    """Read a run's files. Raises UserError if the run does not exist."""
    if not run.root.is_dir():
        raise UserError(f"{run.root}: this run does not exist")
    config = run.config.read_text(encoding="utf-8") if run.config.exists() else ""
    metrics, events = MetricsLine.read_lines(run.metrics), read_events(run.events)
    data = RunData(run, config, metrics.records, events.records, None)
    data.damaged += [str(error) for error in (*metrics.damaged, *events.damaged)]
    try:
        data.environment = Environment.read(run.environment)
    except FileNotFoundError:
        pass
    except RecordError as error:
        data.damaged.append(str(error))
    data.cells = _results(run, data.damaged)
    data.milestones = {epoch: _results(run.at(epoch), data.damaged) for epoch in run.evaluated_milestones()}
    data.wanted = _wanted(run)
    return data


def _results(run: RunDir, damaged: list[str]) -> dict[tuple[str, str], Cell]:
    """Read the probe results of a run or of a milestone. Adds a message to `damaged` for each that is left out."""
    found: dict[tuple[str, str], list[ProbeResult]] = {}
    for path in sorted(run.probe_results(), key=_seed):
        try:
            result = ProbeResult.read(path)
            others = found.setdefault((result.probe, result.dataset), [])
            if problem := _misplaced(result, path, others):
                raise RecordError(f"{path}: {problem}")
            others.append(result)
        except (FileNotFoundError, RecordError) as error:
            damaged.append(str(error))
    return {key: Cell(tuple(results)) for key, results in found.items() if results}


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
    return None


def _wanted(run: RunDir) -> dict[tuple[str, str], int]:
    try:
        config = load(run.config, Config)
    except (OSError, TrexError):
        return {}
    seeds = {kind.name: sum(map(kind.runs, range(config.probe.seeds))) for kind in kinds_of(config.probe)}
    return {(kind, name): count for kind, count in seeds.items() for name in config.extract.datasets}


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
    """Mean accuracy and mean log-odds over datasets."""

    mean: float | None  #: a fraction; None without results
    log_odds: float | None
    count: int  #: datasets with results
    of: int  #: datasets in total, with and without results


def average(run: RunData, kind: str, names: Sequence[str]) -> Average:
    """The average over the datasets that have results: those of the published average if `names` has a column of the
    published table, otherwise all of `names`."""
    wanted = PUBLISHED_AVERAGE if any(name in FIRST_COLUMNS for name in names) else tuple(names)
    cells = [run.cells[kind, name] for name in wanted if (kind, name) in run.cells]
    if not cells:
        return Average(None, None, 0, len(wanted))
    return Average(mean(cell.mean for cell in cells), mean(cell.log_odds for cell in cells), len(cells), len(wanted))


def _seed(path: Path) -> tuple[str, int]:
    """The folder of a result file and its seed, to sort by."""
    number = path.stem.removeprefix("seed_")
    return str(path.parent), int(number) if number.isdecimal() else -1
