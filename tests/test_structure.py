"""The structure that readers rely on: short files, short functions, no import cycles, typed records, true pictures."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = [path for folder in ("trex", "jobs", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_file_is_longer_than_400_lines() -> None:
    assert CODE
    assert {str(path.relative_to(ROOT)): lines(path) for path in [*CODE, *TESTS] if lines(path) > 400} == {}


def test_no_function_is_longer_than_60_lines() -> None:
    long = []
    for path in [*CODE, *TESTS]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    long.append((path.name, node.name, length))
    assert long == []


def test_there_are_at_least_8_lines_of_tests_for_10_lines_of_code() -> None:
    code = sum(lines(path) for path in CODE if path.is_relative_to(ROOT / "trex") or path.is_relative_to(ROOT / "jobs"))
    assert sum(map(lines, TESTS)) / code >= 0.8


@pytest.mark.parametrize("package", ["trex", "jobs"])
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    """Imports inside functions count too; those for type checkers alone do not."""
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_fewer_than_10_plain_dicts_stand_where_a_record_could() -> None:
    found = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("dict[str, Any]") for path in CODE}
    assert sum(found.values()) < 10, {name: count for name, count in found.items() if count}


@pytest.mark.parametrize("name", ["packages.svg", "run.svg"])
def test_picture_of_the_architecture_is_what_the_code_says(name: str) -> None:
    program = (
        "import draw_map; print(draw_map.packages() if NAME == 'packages.svg' else draw_map.way_of_a_run(), end='')"
    )
    command = [sys.executable, "-c", program.replace("NAME", repr(name))]
    made = subprocess.run(command, cwd=ROOT / "tools", capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == made, "run `make docs`"
