"""The result tables for the terminal, papers and spreadsheets: one row per run, one column per dataset."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from trex.reporting import transfer
from trex.reporting.collect import Average, Cell, RunData, average, datasets, probe_kinds

MISSING = "–"

#: Published averages: model, source, ImageNet-1K top-1 in %, mean log-odds over 15 datasets. From arXiv 2206.15369 and
#: the release notes of its program.
PUBLISHED = (
    ("t-ReX", "paper", 78.0, 1.1704),
    ("t-ReX*", "paper", 80.2, 0.8829),
    ("t-ReX", "released program", 77.9, 1.1664),
    ("t-ReX*", "released program", 80.2, 0.8800),
)


def cell_text(cell: Cell | None, plus_minus: str = " ± ") -> str:
    """Mean and standard deviation over seeds in %, with `*` if not comparable; a dash without results."""
    if cell is None:
        return MISSING
    spread = "" if cell.spread is None else f"{plus_minus}{100 * cell.spread:.1f}"
    return f"{100 * cell.mean:.1f}{spread}{'' if cell.comparable else '*'}"


def average_texts(found: Average) -> tuple[str, str]:
    """Mean in % and mean log-odds, with the number of datasets if some are missing."""
    if found.mean is None or found.log_odds is None:
        return MISSING, MISSING
    over = "" if found.count == found.of else f" ({found.count}/{found.of} datasets)"
    return f"{100 * found.mean:.1f}{over}", f"{found.log_odds:.3f}{over}"


def rows(runs: Sequence[RunData], kind: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table for one kind of probe."""
    names = datasets(runs, kind)
    head = ["run", *names, "mean", "log-odds"]
    body = [
        [
            run.name,
            *(cell_text(run.cells.get((kind, name))) for name in names),
            *average_texts(average(run, kind, names)),
        ]
        for run in runs
    ]
    return head, body


def notes(runs: Sequence[RunData]) -> list[str]:
    """The notes below the tables: their units, and what is missing, not comparable or left out."""
    lines = [
        "Top-1 test accuracy in %, mean ± standard deviation over seeds. The columns mean and log-odds leave out in1k."
    ]
    cells = [cell for run in runs for cell in run.cells.values()]
    if any(not cell.comparable for cell in cells):
        lines.append("* measured on a subset of the dataset: not comparable with published numbers.")
    if any(value in (0.0, 1.0) for cell in cells for value in cell.top1):
        lines.append("Log-odds count 100 % as 1 - 1/(2n) and 0 % as 1/(2n), for n test images.")
    for run in runs:
        absent = missing(run, runs)
        if absent:
            lines.append(f"{run.name}: no results for {', '.join(absent)}.")
        for (kind, name), cell in sorted(run.cells.items()):
            if len(cell.results) < run.wanted.get((kind, name), 0):
                lines.append(f"{run.name}: {name} ({kind}) has {len(cell.results)} of {run.wanted[kind, name]} seeds.")
        encoders = {result.provenance.encoder_digest for cell in run.cells.values() for result in cell.results}
        if len(encoders) > 1:
            text = f"its results come from {len(encoders)} different encoders and are not comparable with each other"
            lines.append(f"{run.name}: {text}.")
        if len(transforms := _transforms(run)) > 1:
            text = f"its results come from {len(transforms)} different preprocessings and are not comparable"
            lines.append(f"{run.name}: {text} with each other.")
        lines += [f"{run.name}: images: {transform}." for transform in transforms]
        lines += [f"{run.name}: left out: {problem}" for problem in run.damaged]
    return lines


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


def text_table(runs: Sequence[RunData]) -> str:
    """All tables as plain text with aligned columns."""
    blocks = []
    for kind in probe_kinds(runs):
        head, body = rows(runs, kind)
        blocks.append("\n".join([f"probe: {kind}", *aligned([head, *body])]))
    if not blocks:
        blocks.append("no probe results yet")
    for kind in transfer.kinds(runs):
        head, body = transfer_rows(runs, kind)
        blocks.append("\n".join([f"transfer against epoch, probe: {kind}", *aligned([head, *body])]))
    return "\n\n".join([*blocks, "\n".join(notes(runs))])


def aligned(lines: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """A header, a rule and rows in aligned columns: those in `left` to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    texts = [
        "  ".join(
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return [texts[0], "-" * max(map(len, texts)), *texts[1:]]


def markdown(runs: Sequence[RunData]) -> str:
    """All tables as Markdown."""
    blocks = []
    for kind in probe_kinds(runs):
        head, body = rows(runs, kind)
        blocks.append(f"**{kind}**\n\n" + _markdown_table(head, body))
    for kind in transfer.kinds(runs):
        blocks.append(f"**{kind}, transfer against epoch**\n\n" + _markdown_table(*transfer_rows(runs, kind)))
    return "\n\n".join([*blocks, *notes(runs)]) + "\n"


def _markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(_markdown(text) for text in line) + " |" for line in [head, *body]]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def transfer_rows(runs: Sequence[RunData], kind: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table of accuracies by epoch for one kind of probe."""
    head = ["run", "epoch", *transfer.datasets(runs, kind)]
    return head, [[row.run, str(row.epoch), *map(cell_text, row.cells)] for row in transfer.rows(runs, kind)]


def milestones_csv(runs: Sequence[RunData]) -> str:
    """All results at milestones as CSV, one line per result."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "epoch", "dataset", "probe", "seed", "top1", "mean_per_class", "weights"])
    for row in transfer.csv_rows(runs):
        writer.writerow([escape_formula(value) for value in row])
    return out.getvalue()


def latex(runs: Sequence[RunData]) -> str:
    """All tables as LaTeX (booktabs)."""
    blocks = []
    for kind in probe_kinds(runs):
        head, body = rows(runs, kind)
        lines = [" & ".join(_latex(text) for text in line) + r" \\" for line in [head, *body]]
        columns = "l" + "r" * (len(head) - 1)
        inner = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
        blocks.append("\n".join([f"% probe: {kind}", *inner, r"\end{tabular}"]))
    return "\n\n".join([*blocks, *(f"% {line}" for line in notes(runs))]) + "\n"


def results_csv(runs: Sequence[RunData]) -> str:
    """All results as CSV, one line per result."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["run", "dataset", "probe", "seed", "top1", "mean_per_class", "chosen", "comparable", "encoder"]
    writer.writerow([*head, "preprocessing"])
    for run in runs:
        for (kind, dataset), cell in sorted(run.cells.items()):
            for result in cell.results:
                chosen = " ".join(f"{key}={value:g}" for key, value in result.search.best.items())
                line: list[object] = [run.name, dataset, kind, result.seed]
                line += [result.test.top1, result.test.mean_per_class, chosen]
                line += [result.comparable, result.provenance.encoder_digest, result.provenance.transform]
                writer.writerow([escape_formula(value) for value in line])
    return out.getvalue()


@dataclass(frozen=True)
class Comparison:
    """The difference of two runs on one dataset with one kind of probe."""

    names: str  #: of both runs
    kind: str
    dataset: str
    gain: float  #: difference of the mean top-1 accuracies over the common seeds, percentage points
    p: float | None  #: p-value of a paired t-test over the common seeds; None if it is undefined


def comparisons(runs: Sequence[RunData]) -> list[Comparison]:
    """Compares each pair of runs on each dataset and kind of probe for which both have results with a common seed."""
    found = []
    for one, other in combinations(runs, 2):
        for kind in probe_kinds(runs):
            for name in datasets(runs, kind):
                if (kind, name) in one.cells and (kind, name) in other.cells:
                    compared = _compared(one.cells[kind, name], other.cells[kind, name])
                    if compared is not None:
                        found.append(Comparison(f"{one.name} − {other.name}", kind, name, *compared))
    return found


def _compared(one: Cell, other: Cell) -> tuple[float, float | None] | None:
    """`gain` and `p` of a `Comparison`; None without a common seed."""
    from scipy.stats import ttest_rel

    a, b = ({result.seed: result.test.top1 for result in cell.results} for cell in (one, other))
    both = sorted(a.keys() & b.keys())
    if not both:
        return None
    differences = [a[seed] - b[seed] for seed in both]
    p = None
    if len(both) > 1 and len(set(differences)) > 1:
        p = float(ttest_rel([a[seed] for seed in both], [b[seed] for seed in both]).pvalue)
    return 100 * sum(differences) / len(both), p


def escape_formula(value: object) -> object:
    """Put an apostrophe before a string that a spreadsheet would evaluate as a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value


def _markdown(text: str) -> str:
    return re.sub(r"([|<>*_`\\])", r"\\\1", text)


def _latex(text: str) -> str:
    text = re.sub(r"([&%$#_{}])", r"\\\1", text)
    return text.replace(" ± ", r" $\pm$ ").replace(MISSING, "--")
