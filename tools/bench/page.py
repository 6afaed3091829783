"""The rows of a benchmark, and the page in benchmarks/ that shows them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from trex.files import write_text

ROOT = Path(__file__).resolve().parents[2]
#: Instructions of the CPU that decide how fast some of the code is.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "numba", "scikit-learn", "optuna")


@dataclass(frozen=True)
class Row:
    """One comparison."""

    what: str
    usual: str  #: what the usual way took, with its unit
    ours: str
    ratio: str  #: with its spread: `Times.spread`
    goal: str = ""  #: `≥ 6`; empty if there is none
    quality: str = ""  #: what shows that both do the same work equally well


@dataclass(frozen=True)
class Topic:
    """A page of comparisons. Each module `tools.bench.<name>` has one, `TOPIC`."""

    title: str
    about: str  #: what is compared, on what; one or two paragraphs of Markdown
    rows: Callable[[], Iterator[Row]]
    notes: Callable[[], str] | None = None  #: Markdown below the table, asked for after the rows
    cores: int = 1  #: the process is bound to this many cores


def machine() -> str:
    """The CPU and its instructions, the operating system's load, and the versions, as Markdown."""
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*: (.*)", about)
    found = re.search(r"flags\s*: (.*)", about)
    flags = set(found[1].split()) if found else set()
    has, lacks = ([flag for flag in FLAGS if (flag in flags) is wanted] for wanted in (True, False))
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return (
        f"CPU: {model[1] if model else 'not known'}, {os.cpu_count()} cores in the machine; "
        f"{' '.join(has) or 'none of the instructions below'}{f'; without {chr(32).join(lacks)}' if lacks else ''}. "
        f"Load of the machine when the measurement began: {os.getloadavg()[0]:.1f}.\n"
        f"Python {sys.version.split()[0]}, {versions}."
    )


def write_page(name: str, topic: Topic) -> Path:
    """Measure a topic, print its rows, and write `benchmarks/<name>.md`."""
    where, allowed = machine(), os.sched_getaffinity(0)
    cores = sorted(allowed)[: topic.cores]
    os.sched_setaffinity(0, cores)
    try:
        lines = _measured(topic)
        notes = [topic.notes(), ""] if topic.notes else []
    finally:
        os.sched_setaffinity(0, allowed)
    path = ROOT / "benchmarks" / f"{name}.md"
    write_text(
        path,
        "\n".join(
            [
                f"# {topic.title}", "", f"Written by `make bench ONLY={name}`.", "", topic.about, "", where,
                f"The process runs on {len(cores)} of the cores.", "", *lines, "", *notes,
            ]
        ).rstrip() + "\n",
    )  # fmt: skip
    print(f"==> {path.relative_to(ROOT)}", flush=True)
    return path


def _measured(topic: Topic) -> list[str]:
    """The lines of the table. Each row is printed as soon as it is measured."""
    lines = ["| what | usual | ours | usual / ours | goal | quality |", "|---|---|---|---|---|---|"]
    print(f"==> {topic.title}", flush=True)
    for row in topic.rows():
        lines.append(f"| {row.what} | {row.usual} | {row.ours} | **{row.ratio}** | {row.goal} | {row.quality} |")
        goal = f", goal {row.goal}" if row.goal else ""
        print(f"{row.what}: usual {row.usual}, ours {row.ours}, ratio {row.ratio}{goal}; {row.quality}", flush=True)
    return lines
