"""The frame of the benchmarks: what is timed, and what a page says. No test measures speed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tools.bench import page
from tools.bench.__main__ import TOPICS
from tools.bench.alternate import Times, alternate
from tools.bench.page import Row, Topic, write_page

ROOT = Path(__file__).resolve().parents[1]


def test_ways_alternate_and_the_first_round_does_not_count() -> None:
    seen: list[tuple[str, int]] = []
    ticks = iter(range(100))
    found = alternate(
        lambda n: seen.append(("usual", n)), lambda n: seen.append(("ours", n)), 2, clock=lambda: float(next(ticks))
    )
    assert seen == [("ours", 0), ("usual", 0), ("usual", 1), ("ours", 1), ("ours", 2), ("usual", 2)]
    assert found == Times((1.0, 1.0), (1.0, 1.0))


def test_ratio_is_the_median_of_the_rounds() -> None:
    times = Times((2.0, 9.0, 4.0), (1.0, 3.0, 4.0))
    assert times.ratio == 2.0
    assert times.spread == "2.00 (1.00 to 3.00)"
    assert (times.usual_median, times.ours_median) == (4.0, 3.0)


def test_page_says_what_was_compared_on_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Iterator[Row]:
        yield Row("crops of 120 photographs", "14.0 ms", "2.0 ms", "7.00 (6.80 to 7.20)", "≥ 6", "53 dB")

    monkeypatch.setattr(page, "ROOT", tmp_path)
    text = write_page("crops", Topic("Crops", "What it is.", rows, lambda: "A note.", cores=1)).read_text()
    assert text.startswith("# Crops\n\nWritten by `make bench ONLY=crops`.\n\nWhat it is.\n\nCPU: ")
    assert "| crops of 120 photographs | 14.0 ms | 2.0 ms | **7.00 (6.80 to 7.20)** | ≥ 6 | 53 dB |\n" in text
    assert text.endswith("\nA note.\n")
    assert "The process runs on 1 of the cores." in text


def test_unknown_topic_is_refused() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "tools.bench", "crosp"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert made.returncode == 2
    assert f"no topic crosp: expected {', '.join(TOPICS)}" in made.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", TOPICS)
def test_topic_has_a_page(name: str) -> None:
    assert isinstance(import_module(f"tools.bench.{name}").TOPIC, Topic)
    assert f"make bench ONLY={name}" in (ROOT / "benchmarks" / f"{name}.md").read_text(encoding="utf-8")
