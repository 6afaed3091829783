"""Commands import no heavy module before a job runs, not even indirectly: the contract in pyproject.toml."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = "Reading, planning and submitting imports nothing heavy"

#: Imports one module after the other, and prints the first one that loads a heavy module.
PROGRAM = """
import importlib, json, sys
modules, heavy = json.loads(sys.argv[1])
found = {}
for module in modules:
    importlib.import_module(module)
    loaded = [name for name in heavy if name in sys.modules]
    if loaded:
        found[module] = loaded
        break
print(json.dumps(found))
"""


def contract() -> dict[str, list[str]]:
    """Return the contract as import-linter reads it."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return next(one for one in contracts if one["name"] == CONTRACT)


def with_submodules(name: str) -> list[str]:
    """Return a package and all its modules, or just the module."""
    folder = ROOT / name.replace(".", "/")
    return [name, *(found.name for found in pkgutil.walk_packages([str(folder)], f"{name}."))]


def loaded_by(modules: list[str]) -> dict[str, list[str]]:
    """Return the first of `modules` that loads forbidden modules, and which ones."""
    argument = json.dumps([modules, contract()["forbidden_modules"]])
    command = [sys.executable, "-c", PROGRAM, argument]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    return json.loads(done.stdout)


def test_no_module_of_the_contract_imports_a_heavy_module() -> None:
    modules = [module for name in contract()["source_modules"] for module in with_submodules(name)]
    assert len(modules) > 40
    assert loaded_by(modules) == {}


@pytest.mark.slow
def test_heavy_import_is_detected() -> None:
    found = loaded_by(["trex.errors", "trex.tensor_files"])
    assert "torch" in found["trex.tensor_files"]
