"""The result tables for the terminal, papers and spreadsheets: one row per run, one column per dataset."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from trex.probing.kind import kind_of
from trex.reporting import skipping, transfer
from trex.reporting.cell import Cell, titles
from trex.reporting.collect import Average, RunData, average, datasets, probe_kinds
from trex.reporting.compare import Comparison, comparisons
from trex.reporting.metric import TOP1, Metric
from trex.reporting.statistics import Interval
from trex.wording import one_line

MISSING = "–"
SKIPPED_MARK = "†"
EDGE_MARK = "‡"
Table = tuple[list[str], list[list[str]]]  #: header and rows

#: Published averages: model, source, ImageNet-1K top-1 in %, mean log-odds over 15 datasets. From arXiv 2206.15369 and
#: the release notes of its program.
PUBLISHED = (
    ("t-ReX", "paper", 78.0, 1.1704),
    ("t-ReX*", "paper", 80.2, 0.8829),
    ("t-ReX", "released program", 77.9, 1.1664),
    ("t-ReX*", "released program", 80.2, 0.8800),
)


def cell_text(cell: Cell | None, metric: Metric = TOP1) -> str:
    """A score ± half of its interval; a dash without results.

    `*` means that it is not comparable, `†` that broken images were skipped, `‡` that a seed chose a value at an end of
    its range.
    """
    found = None if cell is None else cell.estimate(metric)
    if cell is None or found is None:
        return MISSING
    marks = ("" if cell.comparable else "*") + (SKIPPED_MARK if cell.skipped else "")
    marks += EDGE_MARK if cell.edges else ""
    return f"{_value(metric, found.value, found.interval)}{marks}"


def average_texts(found: Average, metric: Metric = TOP1) -> tuple[str, str]:
    """The mean ± half of its interval and the mean log-odds, with the number of datasets if some are missing."""
    if found.mean is None or found.log_odds is None:
        return MISSING, MISSING
    over = "" if found.count == found.of else f" ({found.count}/{found.of} datasets)"
    return f"{_value(metric, found.mean, found.interval)}{over}", f"{found.log_odds:.3f}{over}"


def _value(metric: Metric, value: float, interval: Interval | None) -> str:
    return metric.text(value) + ("" if interval is None else f" ± {metric.text(interval.half)}")


def rows(runs: Sequence[RunData], kind: str, metric: Metric = TOP1) -> Table:
    """The header and the rows of the table for one kind of probe. Log-odds are shown for the top-1 accuracy."""
    names = datasets(runs, kind)
    columns = 2 if metric is TOP1 else 1
    head = ["run", *(column(runs, kind, name, metric) for name in names), *("mean", "log-odds")[:columns]]
    body = [
        [
            run.name,
            *(cell_text(run.cells.get((kind, name)), metric) for name in names),
            *average_texts(average(run, kind, names, metric), metric)[:columns],
        ]
        for run in runs
    ]
    return head, body


def column(runs: Sequence[RunData], kind: str, name: str, metric: Metric = TOP1) -> str:
    """The head of a dataset's column, with a mark if it has another score than the metric of the table."""
    cells = [run.cells[kind, name] for run in runs if (kind, name) in run.cells]
    return f"{name} (mAP)" if any(cell.metric(metric) is not metric for cell in cells) else name


def caption(runs: Sequence[RunData], kind: str, metric: Metric = TOP1) -> str:
    """What the numbers of a table are, what "±" is, and what differs between the seeds."""
    text, changes = about(runs, kind, metric), _seeds_change(kind)
    if not changes:
        return text
    spread = "± does not contain the spread over seeds; the report's cells.csv has it."
    if "±" not in text:
        spread = "The report's cells.csv has the spread over seeds."
    return f"{text} Seeds differ in {changes}. {spread}"


def about(runs: Sequence[RunData], kind: str, metric: Metric) -> str:
    """What the numbers of a table are, and what "±" is."""
    return _about([cell for run in runs for (one, _), cell in run.cells.items() if one == kind], kind, metric)


def transfer_caption(runs: Sequence[RunData], kind: str) -> str:
    """The same for the table of accuracies by epoch."""
    cells = [cell for run in runs for at in run.milestones.values() for (one, _), cell in at.items() if one == kind]
    return _about(cells, kind, TOP1)


def _about(cells: Sequence[Cell], kind: str, metric: Metric) -> str:
    title = titles(cells, metric)
    text = f"{title[0].upper()}{title[1:]} on the test images in {metric.unit}"
    if _seeds_change(kind):
        text += ", mean over the seeds"
    found = [cell.estimate(metric) for cell in cells]
    if any(one is not None and one.interval is not None for one in found):
        text += " ± half of the 95 % interval over test images"
    return f"{text}."


def _seeds_change(kind: str) -> str:
    try:
        return kind_of(kind).seeds_change
    except ValueError:  # a result of another version
        return ""


def notes(runs: Sequence[RunData]) -> list[str]:
    """The notes below the tables: their units, and what is missing, not comparable or left out."""
    lines = ["The columns mean and log-odds leave out in1k. The mean's ± takes the datasets as fixed."]
    cells = [cell for run in runs for cell in run.cells.values()]
    if any(not cell.comparable for cell in cells):
        lines.append("* measured on a subset of the dataset: not comparable with published numbers.")
    lines += skipping.notes(runs)
    if any(value in (0.0, 1.0) for cell in cells for value in cell.main):
        lines.append("Log-odds count 100 % as 1 - 1/(2n) and 0 % as 1/(2n), for n test images.")
    if marked := sorted({name for run in runs for (_, name), cell in run.cells.items() if cell.multi_label}):
        lines.append(
            f"{', '.join(marked)}: an image may have several classes. The score is the mean average precision over 11 "
            f"points of recall (VOC 2007), in place of the top-1 accuracy, also in the columns mean and log-odds."
        )
    return [*lines, *(note for run in runs for note in (*_cells(run, runs), *_images(run), *_left_out(run)))]


def _cells(run: RunData, runs: Sequence[RunData]) -> Iterator[str]:
    """The notes about the results of one run: what is missing, and what they say about a cell."""
    yield from (f"{run.name}: {sentence}." for sentence in run.left_out)
    if results := missing(run, runs):
        yield f"{run.name}: no results for {', '.join(results)}."
    yield from _missing_seeds(run)
    for (kind, name), cell in sorted(run.cells.items()):
        if cell.edges:
            ends = ", ".join(cell.edges)
            yield f"{EDGE_MARK} {run.name}: {name} ({kind}): chosen value at an end of the range: {ends}."
        if absent := max(one.counts.classes_without_training_images for one in cell.results):
            yield f"{run.name}: {name} ({kind}): {absent} of its classes have no training images."


def _missing_seeds(run: RunData) -> Iterator[str]:
    """The notes about final results and results at milestones that have fewer seeds than the config asks for."""
    at_milestones = ((f" after epoch {epoch}", cells) for epoch, cells in sorted(run.milestones.items()))
    for when, cells in (("", run.cells), *at_milestones):
        for (kind, name), cell in sorted(cells.items()):
            if len(cell.results) < run.wanted.get((kind, name), 0):
                yield f"{run.name}: {name} ({kind}){when} has {len(cell.results)} of {run.wanted[kind, name]} seeds."


def _images(run: RunData) -> Iterator[str]:
    """The notes about the encoders and the preprocessings of the results of one run."""
    encoders = {result.provenance.encoder_digest for cell in run.cells.values() for result in cell.results}
    transforms = _transforms(run)
    for found, what in ((encoders, "encoders"), (transforms, "preprocessings")):
        if len(found) > 1:
            yield (
                f"{run.name}: its results come from {len(found)} different {what} and are not comparable with each "
                f"other."
            )
    for transform in transforms:
        yield f"{run.name}: images: {transform}."


def _left_out(run: RunData) -> Iterator[str]:
    """The notes about the files of one run that are damaged or missing."""
    for problem in run.damaged:
        yield f"{run.name}: left out: {problem}"
    for (kind, name), problem in sorted(run.untested.items()):
        yield f"{run.name}: no interval and no test for {name} ({kind}): {problem}"
    folder = str(run.run.root / "probes")
    if run.untested or any(problem.startswith(folder) for problem in run.damaged):
        yield f"{run.name}: `trex probe` computes results again that are damaged or of another version."


def _transforms(run: RunData) -> list[str]:
    """The preprocessings of the images that the results of a run come from, in words."""
    return sorted({result.provenance.transform for cell in run.cells.values() for result in cell.results})


def missing(run: RunData, runs: Sequence[RunData]) -> list[str]:
    """The datasets and kinds that this run has no results for, but its config asks for or other runs have."""
    if not (kinds := probe_kinds(runs)):
        return []
    wanted = [(kind, name) for kind in kinds for name in datasets(runs, kind)]
    wanted += [key for key in run.wanted if key not in wanted]
    return [f"{name} ({kind})" for kind, name in wanted if (kind, name) not in run.cells]


def text_table(runs: Sequence[RunData], metric: Metric = TOP1) -> str:
    """All tables as plain text with aligned columns."""
    blocks = []
    for kind in probe_kinds(runs):
        head, body = rows(runs, kind, metric)
        blocks.append("\n".join([f"probe: {kind}", *aligned([head, *body]), *wrapped(caption(runs, kind, metric))]))
    if not blocks:
        blocks.append("no probe results yet")
    for kind in transfer.kinds(runs):
        head, body = transfer_rows(runs, kind)
        lines = [*aligned([head, *body]), *wrapped(transfer_caption(runs, kind))]
        blocks.append("\n".join([f"transfer against epoch, probe: {kind}", *lines]))
    if found := comparisons(runs, metric):
        head, body = difference_rows(found, metric)
        lines = [*aligned([head, *body], left=TEXTS_OF_DIFFERENCES), *wrapped(DIFFERENCES)]
        blocks.append("\n".join(["differences", *lines]))
    return "\n\n".join([*blocks, "\n".join(notes(runs))])


def wrapped(text: str) -> list[str]:
    """The text in lines of at most 100 characters."""
    return textwrap.wrap(text, width=100)


def aligned(lines: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """A header, a rule and rows in aligned columns: those in `left` to the left, the others to the right."""
    lines = [[one_line(text) for text in line] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    texts = [
        "  ".join(
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return [texts[0], "-" * max(map(len, texts)), *texts[1:]]


def markdown(runs: Sequence[RunData], metric: Metric = TOP1) -> str:
    """All tables as Markdown."""
    blocks = []
    for kind in probe_kinds(runs):
        table = _markdown_table(*rows(runs, kind, metric))
        blocks.append(f"**{kind}**\n\n{table}\n\n{caption(runs, kind, metric)}")
    if found := comparisons(runs, metric):
        blocks.append(f"**Differences**\n\n{_markdown_table(*difference_rows(found, metric))}\n\n{DIFFERENCES}")
    for kind in transfer.kinds(runs):
        table = _markdown_table(*transfer_rows(runs, kind))
        blocks.append(f"**{kind}, transfer against epoch**\n\n{table}\n\n{transfer_caption(runs, kind)}")
    return "\n\n".join([*blocks, *notes(runs)]) + "\n"


def _markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(_markdown(text) for text in line) + " |" for line in [head, *body]]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines)


def transfer_rows(runs: Sequence[RunData], kind: str) -> Table:
    """The header and the rows of the table of accuracies by epoch for one kind of probe."""
    head = ["run", "epoch", *(transfer.column(runs, kind, name) for name in transfer.datasets(runs, kind))]
    return head, [[row.run, str(row.epoch), *map(cell_text, row.cells)] for row in transfer.rows(runs, kind)]


def latex(runs: Sequence[RunData], metric: Metric = TOP1) -> str:
    """All tables as LaTeX (booktabs)."""
    blocks = []
    for kind in probe_kinds(runs):
        head, body = rows(runs, kind, metric)
        lines = [" & ".join(_latex(text) for text in line) + r" \\" for line in [head, *body]]
        columns = "l" + "r" * (len(head) - 1)
        inner = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
        title = [f"% probe: {kind}", f"% {caption(runs, kind, metric)}"]
        blocks.append("\n".join([*title, *inner, r"\end{tabular}"]))
    return "\n\n".join([*blocks, *(f"% {line}" for line in notes(runs))]) + "\n"


#: The columns of a table of differences that hold texts.
TEXTS_OF_DIFFERENCES = (0, 1, 2)
#: What stands under a table of differences.
DIFFERENCES = (
    "Difference of the means over the seeds that both runs have, or over all seeds if they have none in common, "
    "with its own 95 % interval. p: paired test over the test images, corrected by Holm's method over the datasets "
    "of these two runs and this probe. Both contain the choice of the test images and, with several seeds, the "
    "spread over them. They do not contain the choice of the datasets, nor that of the training images if all seeds "
    "have the same."
)


def difference_rows(found: Sequence[Comparison], metric: Metric) -> Table:
    """The header and the rows of a table of differences."""
    head = ["runs", "probe", "dataset", f"difference, {'points' if metric.unit == '%' else metric.unit}"]
    return [*head, "95 % interval", "p"], [_difference_row(one, metric) for one in found]


def _difference_row(one: Comparison, metric: Metric) -> list[str]:
    gain = MISSING if one.gain is None else metric.text(one.gain, "+")
    interval = one.problem or MISSING
    if one.interval is not None:
        interval = f"{metric.text(one.interval.low, '+')} … {metric.text(one.interval.high, '+')}"
    p = MISSING if one.adjusted_p is None else "<1e-10" if one.adjusted_p < 1e-10 else f"{one.adjusted_p:.2g}"
    dataset = one.dataset if one.metric == metric.name else f"{one.dataset} (mAP)"
    return [one.names, one.kind, dataset, gain, interval, p]


def _markdown(text: str) -> str:
    return re.sub(r"([|<>*_`\\])", r"\\\1", text)


#: What stands for LaTeX's special characters, and for those that its default font shows as others.
_LATEX = str.maketrans({
    **{letter: rf"\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
})  # fmt: skip


def _latex(text: str) -> str:
    return text.translate(_LATEX).replace(" ± ", r" $\pm$ ").replace(MISSING, "--")
