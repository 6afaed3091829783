"""Draw the two pictures of ARCHITECTURE.md. `make docs` runs it; a test fails while a picture differs from the code.

docs/packages.svg   the packages in their layers, as import-linter checks them, and the first sentence of each docstring
docs/run.svg        the way of a run: the files through which the stages exchange data, and the life of a job on Slurm
"""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs"

WIDTH, MARGIN, GAP = 1000, 20, 10
LINE, PADDING = 17, 10
CHARACTER = 7.0  #: width of a character of the text, pixels
STYLE = (
    ".arrow{stroke:#5b6470;stroke-width:1.5;fill:none;marker-end:url(#tip)}"
    "text{font:13px system-ui,sans-serif;fill:#1c2128}.name{font-weight:600}.title{font-size:16px;font-weight:600}"
    ".trex{fill:#e8f1f8;stroke:#0072b2}.jobs{fill:#fbeee6;stroke:#d55e00}.paper{fill:#fff}"
)


def contracts() -> Iterator[tuple[str, list[list[str]]]]:
    """Each root package with its layers, top first, as names of modules: the layers contracts of pyproject.toml, but
    for those within one package."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    for contract in settings["contracts"]:
        if contract["type"] == "layers":
            layers = [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]
            if layers[-1][0].count(".") == 1:
                yield layers[-1][0].split(".")[0], layers


def sentence(module: str) -> str:
    """The first sentence of a module's or package's docstring."""
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0].rstrip(".")


def packages() -> str:
    """docs/packages.svg."""
    parts: list[str] = []
    y = float(MARGIN)
    for root, layers in contracts():
        parts.append(f'<text class="title" x="{MARGIN}" y="{y + 14:.0f}">{root}/: {escape(sentence(root))}</text>')
        y += 30
        for layer in layers:
            if mine := [module for module in layer if module.split(".")[0] == root]:
                made, height = row(mine, root, y)
                parts += made
                y += height + GAP
        y += 2 * GAP
    return svg("The packages; each imports only packages below it", parts, y)


def svg(title: str, parts: list[str], height: float) -> str:
    """An SVG file of these elements."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img">'
    tip = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    tip = f'<defs>{tip}<path d="M0,0 L8,4 L0,8 z" fill="#5b6470"/></marker></defs>'
    paper = f'<rect class="paper" width="{WIDTH}" height="{height:.0f}"/>'
    return f"{head}<title>{escape(title)}</title><style>{STYLE}</style>{tip}{paper}{''.join(parts)}</svg>\n"


def row(modules: list[str], root: str, y: float) -> tuple[list[str], float]:
    """One layer: a box per module, side by side; returns its SVG elements and its height in pixels."""
    width = (WIDTH - 2 * MARGIN - GAP * (len(modules) - 1)) / len(modules)
    texts = [textwrap.wrap(sentence(module), int((width - 2 * PADDING) / CHARACTER)) for module in modules]
    height = 2 * PADDING + LINE * (1 + max(map(len, texts)))
    parts = []
    for number, (module, lines) in enumerate(zip(modules, texts, strict=True)):
        x = MARGIN + number * (width + GAP)
        parts.append(box(root, x, y, width, height, [module, *lines]))
    return parts, height


def box(kind: str, x: float, y: float, width: float, height: float, lines: Iterable[str]) -> str:
    """A box with lines of text, the first one bold."""
    parts = [f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="6"/>']
    for number, text in enumerate(lines):
        bold = ' class="name"' if number == 0 else ""
        at = f'x="{x + PADDING:.0f}" y="{y + PADDING + 12 + LINE * number:.0f}"'
        parts.append(f"<text{bold} {at}>{escape(text)}</text>")
    return "".join(parts)


#: The stages of a run: who does it, what it writes into the run folder.
STAGES = (
    ("a recipe", "configs/*.yaml, read strictly by trex/config", "config.yaml"),
    ("train", "trex/training with a method of trex/methods", "checkpoints/, metrics.jsonl"),
    ("extract", "trex/features, images from trex/datasets and trex/loading", "features/…/trainval.h5, test.h5"),
    ("probe", "trex/probing, one file per kind and seed", "probes/…/seed_0.json, …"),
    ("report", "trex/reporting, from these files alone", "report/index.html"),
)
#: The life of a job on Slurm; the last step leads back to the second.
JOB = (
    ("plan", "jobs/plan: what of the run is missing"),
    ("submit", "jobs/slurm: batch script, code snapshot, dependencies"),
    ("run", "jobs/worker: lock, ranks meet, the stage runs"),
    ("save", "a signal comes: all ranks save at one step, exit code 75"),
    ("requeue", "jobs/slurm/requeue.sh reads the recorded state, calls scontrol requeue"),
)


def way_of_a_run() -> str:
    """docs/run.svg."""
    parts = [
        f'<text class="title" x="{MARGIN}" y="34">The stages exchange data through files in runs/&lt;name&gt;/</text>'
    ]
    made, height = boxes([(name, f"{what}. Writes {written}") for name, what, written in STAGES], "trex", 50)
    y = 50 + height + 46
    parts += [*made, f'<text class="title" x="{MARGIN}" y="{y - 16}">The life of a job on Slurm</text>']
    made, height = boxes(JOB, "jobs", y)
    width = (WIDTH - 2 * MARGIN - 4 * 3 * GAP) / 5
    first, last = MARGIN + 2.5 * width + 6 * GAP, WIDTH - MARGIN - width / 2
    low = y + height
    parts += [*made, f'<path class="arrow" d="M{last:.0f},{low} v24 H{first:.0f} v-22"/>']
    parts.append(f'<text x="{first + 20:.0f}" y="{low + 18}">starts again from the newest checkpoint</text>')
    return svg("The way of a run", parts, low + 40)


def boxes(entries: Iterable[tuple[str, str]], kind: str, y: float) -> tuple[list[str], int]:
    """Five boxes side by side with arrows between them; returns the SVG elements and their height in pixels."""
    width = (WIDTH - 2 * MARGIN - 4 * 3 * GAP) / 5
    texts = [(name, textwrap.wrap(text, int((width - 2 * PADDING) / CHARACTER))) for name, text in entries]
    height = 2 * PADDING + LINE * (1 + max(len(lines) for _, lines in texts))
    parts = []
    for number, (name, lines) in enumerate(texts):
        x = MARGIN + number * (width + 3 * GAP)
        parts.append(box(kind, x, y, width, height, [name, *lines]))
        if number:
            parts.append(f'<path class="arrow" d="M{x - 3 * GAP + 2:.0f},{y + height / 2:.0f} H{x - 2:.0f}"/>')
    return parts, height


if __name__ == "__main__":
    (PICTURES / "packages.svg").write_text(packages(), encoding="utf-8")
    (PICTURES / "run.svg").write_text(way_of_a_run(), encoding="utf-8")
