"""The report as one self-contained HTML page: inline styles, inline SVG, no scripts."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from html import escape
from typing import TypeGuard

from trex.records.events import AttemptEnded, CheckpointSaved, Event
from trex.reporting import tables, transfer
from trex.reporting.cell import Cell, Estimate, titles
from trex.reporting.charts import Dot, Series, legend, line_chart, whisker_chart
from trex.reporting.classes import TEXTS, class_rows, mean_over_classes
from trex.reporting.collect import RunData, average, datasets, probe_kinds
from trex.reporting.compare import comparisons
from trex.reporting.metric import METRICS, TOP1, Metric
from trex.reporting.stages import stage_rows
from trex.reporting.style import STYLE
from trex.wording import counted

WORST = 10  #: the most classes in the table of the lowest accuracies


def page(runs: Sequence[RunData], metric: Metric = TOP1) -> str:
    """The complete page. Its tables have the scores of `metric`; those of the others are folded away."""
    title = " · ".join(run.name for run in runs)
    body = "".join(_sections(runs, metric))
    made = time.strftime("%Y-%m-%d %H:%M")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>"
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f'<body><main><header><h1>{escape(title)}</h1><p class="lead">{escape(_summary(runs, metric))}</p>'
        f"{legend([run.name for run in runs]) if len(runs) > 1 else ''}</header>{body}"
        f"<footer>created {made}</footer></main></body></html>\n"
    )


def _summary(runs: Sequence[RunData], metric: Metric) -> str:
    """One sentence: the number of runs and datasets, and the run with the best mean."""
    kinds = probe_kinds(runs)
    if not kinds:
        return "No probe results yet."
    kind = kinds[0]
    averages = [(average(run, kind, datasets(runs, kind), metric), run.name) for run in runs]
    means = [(found.mean, found.count, name) for found, name in averages if found.mean is not None]
    if not means and metric.multi_label:
        return f"No results of the {kind} probe on a dataset whose images have several classes."
    if not means:
        return f"Results of the {kind} probe on in1k only, which the mean does not include."
    best, count, name = max(means) if metric.highest_is_best else min(means)
    over = counted(count, "dataset")
    title = titles((cell for run in runs for (one, _), cell in run.cells.items() if one == kind), metric)
    number = f"{metric.text(best)} {metric.unit}"
    if len(runs) == 1:
        return f"Mean {title} {number} over {over} ({kind} probe)."
    order = "highest" if metric.highest_is_best else "lowest"
    return f"{len(runs)} models; {order} mean {title} with the {kind} probe: {name}, {number} over {over}."


def _sections(runs: Sequence[RunData], metric: Metric) -> Iterator[str]:
    for kind in probe_kinds(runs):
        shown = _table(runs, kind, metric, tables.caption(runs, kind, metric)) + _scores(runs, kind, metric)
        yield _section(f"Probe: {kind}", shown + _other_scores(runs, kind, metric))
    if not probe_kinds(runs):
        yield _section("Results", '<p class="none">no probe results yet</p>')
    yield f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in tables.notes(runs))}</ul>'
    if len(runs) > 1:
        yield _comparison(runs, metric)
    if transfer.kinds(runs):
        yield _section("Transfer against epoch", _transfer(runs))
    yield _section("Training", _training(runs))
    yield _section("Search", _searches(runs))
    yield _section("Classes", _classes(runs))
    yield _published()
    yield _section("Provenance", "".join(_provenance(run) for run in runs))


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _html_table(
    head: Sequence[str],
    body: Sequence[Sequence[str]],
    best: Collection[tuple[int, int]] = (),
    left: Collection[int] = (0,),
) -> str:
    """A table of texts.

    Args:
        head: the header of each column.
        body: the rows.
        best: (row, column) of the cells to highlight.
        left: the columns that are aligned to the left, with their headers; the others are aligned to the right.
    """
    sides = [' class="left"' if j in left else "" for j in range(len(head))]
    heads = "".join(f'<th scope="col"{side}>{escape(text)}</th>' for text, side in zip(head, sides, strict=True))
    lines = []
    for i, row in enumerate(body):
        cells = [f'<th scope="row"{sides[0]}>{escape(row[0])}</th>']
        for j, text in enumerate(row[1:], start=1):
            marked = ' class="best"' if (i, j) in best else sides[j]
            cells.append(f"<td{marked}>{escape(text)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _table(runs: Sequence[RunData], kind: str, metric: Metric, about: str) -> str:
    """A table of scores, and under it what they are."""
    head, body = tables.rows(runs, kind, metric)
    leaders = _best_of_columns(runs, kind, metric)
    best = {(leaders[name], j) for j, name in enumerate(datasets(runs, kind), start=1) if name in leaders}
    return _html_table(head, body, best) + _caption(about)


def _caption(text: str) -> str:
    return f'<p class="caption">{escape(text)}</p>'


def _estimates(runs: Sequence[RunData], kind: str, name: str, metric: Metric) -> list[tuple[int, Estimate]]:
    """The index of each run with this score on a dataset, and the score."""
    cells = ((number, run.cells[kind, name]) for number, run in enumerate(runs) if (kind, name) in run.cells)
    return [(number, found) for number, cell in cells if (found := cell.estimate(metric)) is not None]


def _best_of_columns(runs: Sequence[RunData], kind: str, metric: Metric) -> dict[str, int]:
    """The index of the run with the best mean score, for each dataset where it is better than that of another run."""
    best = {}
    for name in datasets(runs, kind):
        means = [(found.value, number) for number, found in _estimates(runs, kind, name, metric)]
        if len({value for value, _ in means}) > 1:
            best[name] = (max(means) if metric.highest_is_best else min(means))[1]
    return best


def _scores(runs: Sequence[RunData], kind: str, metric: Metric) -> str:
    """The chart of the scores with their intervals."""
    rows = []
    for name in datasets(runs, kind):
        dots = []
        for number, found in _estimates(runs, kind, name, metric):
            ends = (found.value, found.value) if found.interval is None else (found.interval.low, found.interval.high)
            value, low, high = (metric.scale * one for one in (found.value, *ends))
            dots.append(Dot(runs[number].name, value, low, high, number))
        if dots:
            rows.append((tables.column(runs, kind, name, metric), dots))
    title = titles((cell for run in runs for (one, _), cell in run.cells.items() if one == kind), metric)
    label = f"{title}, {metric.unit}; whisker: 95 % interval over test images"
    return f'<figure class="half">{whisker_chart(rows, label)}</figure>'


def _other_scores(runs: Sequence[RunData], kind: str, shown: Metric) -> str:
    """The tables of the other metrics, and the spread of the shown one over the seeds, folded away."""
    several = any(cell.multi_label for run in runs for (one, _), cell in run.cells.items() if one == kind)
    others = [metric for metric in METRICS.values() if metric is not shown and (several or not metric.multi_label)]
    parts = [_table(runs, kind, metric, tables.about(runs, kind, metric)) for metric in others]
    names = datasets(runs, kind)
    body = [[run.name, *(_spread(run.cells.get((kind, name)), shown) for name in names)] for run in runs]
    about = f"Standard deviation of the {shown.title} over the seeds, {'points' if shown.unit == '%' else shown.unit}."
    parts.append(_html_table(["run", *names], body) + _caption(about))
    folded = f"<summary>other scores, and the spread over seeds</summary>{''.join(parts)}"
    return f"<details>{folded}</details>"


def _spread(cell: Cell | None, metric: Metric) -> str:
    found = None if cell is None else cell.estimate(metric)
    return tables.MISSING if found is None or found.spread is None else metric.text(found.spread)


def _comparison(runs: Sequence[RunData], metric: Metric) -> str:
    head, body = tables.difference_rows(comparisons(runs, metric), metric)
    if not body:
        return ""
    table = _html_table(head, body, left=tables.TEXTS_OF_DIFFERENCES) + _caption(tables.DIFFERENCES)
    return _section("Differences", f"<details><summary>{len(body)} comparisons</summary>{table}</details>")


def _transfer(runs: Sequence[RunData]) -> str:
    charts = "".join(
        f"<figure>{chart}<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, chart in transfer.charts(runs)
    )
    tabled = "".join(
        f"<h3>{escape(kind)}</h3>{_html_table(*tables.transfer_rows(runs, kind))}"
        f"{_caption(tables.transfer_caption(runs, kind))}"
        for kind in transfer.kinds(runs)
    )
    return f'<div class="grid-two">{charts}</div><details><summary>table</summary>{tabled}</details>'


def _training(runs: Sequence[RunData]) -> str:
    charts = [
        ("loss", "cross-entropy", ("train", "validation")),
        ("top1", "top-1 accuracy, %", ("train", "validation")),
        ("knn", "leave-one-out k-NN accuracy, %", ("validation",)),
        ("lr", "learning rate", ("train",)),
        ("images_per_second", "images/s", ("train",)),
    ]
    if not any(run.metrics for run in runs):
        return '<p class="none">no training metrics in these runs</p>'
    marks = [event.step for run in runs for event in run.events if _is_interruption(event)]
    figures = []
    for key, label, kinds in charts:
        series = []
        for color, run in enumerate(runs):
            for kind in kinds:
                lines = [line for line in run.metrics if line.phase == kind and key in line.values]
                points = [(float(line.step), line.values[key]) for line in lines]
                if points:
                    series.append(Series(f"{run.name}, {kind}", points, color, kind == "validation"))
        if series or key != "knn":  # a metric that is measured only if it is asked for
            figures.append(f"<figure>{line_chart(series, 'step', label, marks=marks)}</figure>")
    explained = "Solid: training; dashed: validation."
    if marks:
        steps = ", ".join(str(step) for step in sorted(set(marks)))
        explained += f" Vertical lines: training was interrupted and resumed, at step {steps}."
    return f'<div class="grid-two">{"".join(figures)}</div><p class="caption">{explained}</p>'


def _is_interruption(event: Event) -> TypeGuard[CheckpointSaved]:
    return isinstance(event, CheckpointSaved) and event.reason == "stop"


def _searches(runs: Sequence[RunData]) -> str:
    """Charts of validation accuracy against the first hyper-parameter, one per dataset and kind of probe."""
    figures = [_search(runs, kind, name) for kind in probe_kinds(runs) for name in datasets(runs, kind)]
    shown = "".join(figure for figure in figures if figure)
    return f'<div class="grid-two">{shown}</div>' if shown else '<p class="none">no search</p>'


def _search(runs: Sequence[RunData], kind: str, name: str) -> str:
    """The chart of one dataset and kind, with the first seed of each run. Empty if there was no search."""
    series, chosen, edges = [], [], []
    label, score = "", "top-1"
    for color, run in enumerate(runs):
        cell = run.cells.get((kind, name))
        if cell is None:
            continue
        search = cell.results[0].search
        score = "mAP" if cell.multi_label else score
        label = next(iter(search.best), "")
        tried = [trial for trial in search.trials if label in trial.values]
        points = sorted((trial.values[label], 100 * trial.validation_score) for trial in tried)
        if points:
            series.append(Series(run.name, points, color))
            picked = [point for point in points if point[0] == search.best[label]]
            chosen += [(x, y, color) for x, y in picked[:1]]
        edges += [f"{run.name} {edge}" for edge in cell.edges]
    if not series:
        return ""
    chart = line_chart(series, label, f"validation {score}, %", log_x=True, dots=True, chosen=chosen)
    caption = f"<figcaption>{escape(name)}, {escape(kind)}, first seed; ring: chosen value</figcaption>"
    warning = f'<p class="warning">chosen value at an end of the range: {escape("; ".join(edges))}</p>' if edges else ""
    return f"<figure>{chart}{caption}{warning}</figure>"


def _classes(runs: Sequence[RunData]) -> str:
    blocks = []
    for run in runs:
        for (kind, name), cell in sorted(run.cells.items()):
            title = escape(f"{run.name}: {name}, {kind}")
            blocks.append(f"<details><summary>{title}</summary>{_class_table(cell)}</details>")
    return "".join(blocks) or '<p class="none">no results</p>'


def _class_table(cell: Cell) -> str:
    """The classes with the lowest scores, and the classes that each is confused with most often."""
    head, rows = class_rows(cell)
    shown = f"the lowest {WORST} of {len(rows)} classes" if len(rows) > WORST else f"{len(rows)} classes"
    return f"<p>{mean_over_classes(cell)}; {shown}:</p>{_html_table(head, rows[:WORST], left=TEXTS)}"


def _published() -> str:
    body = [(name, source, f"{top1:.1f}", f"{odds:.4f}") for name, source, top1, odds in tables.PUBLISHED]
    note = "<p>From arXiv 2206.15369 and the release notes of its program; with the probes of the paper.</p>"
    table = _html_table(("model", "source", "ImageNet-1K top-1, %", "mean log-odds, 15 datasets"), body, left=(0, 1))
    return _section("Published averages", f"<details><summary>four published results</summary>{note}{table}</details>")


def _provenance(run: RunData) -> str:
    made_by = [result.provenance for cell in run.cells.values() for result in cell.results]
    weights = sorted({f"{one.weights} ({one.encoder_digest[:12]})" for one in made_by})
    facts = (("weights", "; ".join(weights)), ("images", "; ".join(sorted({one.transform for one in made_by}))))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts if value)
    names, rows = stage_rows(run)
    stages = _html_table(names, rows, left=range(len(names))) if rows else ""
    attempts = [event for event in run.events if isinstance(event, AttemptEnded)]
    body = [
        [str(getattr(event, key))[:200] for key in ("stage", "job", "restart", "seconds", "code", "reason")]
        for event in attempts
    ]
    head = ("stage", "job", "restart", "seconds", "exit code", "reason")
    log = _html_table(head, body, left=(0, 1, 5)) if body else ""
    config = f"<details><summary>config</summary><pre>{escape(run.config)}</pre></details>"
    return (
        f"<details><summary>{escape(run.name)}</summary><dl>{listed}</dl>{stages}{config}"
        f"<details><summary>{len(attempts)} attempts</summary>{log}</details></details>"
    )
