"""Only jobs/slurm/ uses Slurm's terms, and adding a package next to it adds a back end."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

import jobs
from jobs import backend
from jobs.backend import Backend, backends

JOBS = Path(__file__).resolve().parents[2] / "jobs"

WORDS = re.compile(
    r"\b(SLURM|SBATCH|SRUN)[A-Z]*_|\b(sbatch|squeue|sacct|scontrol|sinfo|srun|scancel|sacctmgr)\b"
    r"|\bafter(ok|any|corr|notok)\b|\d_\d+\b"
    r"|\b(PENDING|COMPLETING|COMPLETED|CANCELLED|NODE_FAIL|PREEMPTED|REQUEUED|SUSPENDED|TIMEOUT|OUT_OF_MEMORY)\b"
)


def code(path: Path) -> list[tuple[int, str]]:
    """Return line and text of every token of a module, except for numbers, comments and docstrings."""
    found = []
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        begins_a_line = before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        explains = token.type == tokenize.COMMENT or (token.type == tokenize.STRING and begins_a_line)
        if token.type != tokenize.NUMBER and not explains:
            found.append((token.start[0], token.string))
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            before = token.type
    return found


def test_slurm_terms_are_found_in_the_slurm_package() -> None:
    assert len({path for path in (JOBS / "slurm").glob("*.py") for _, text in code(path) if WORDS.search(text)}) > 5


def test_slurm_terms_are_used_only_in_the_slurm_package() -> None:
    others = [path for path in JOBS.rglob("*.py") if not path.is_relative_to(JOBS / "slurm")]
    assert len(others) > 20
    found = [
        f"{path.relative_to(JOBS)}:{line}: {text}" for path in others for line, text in code(path) if WORDS.search(text)
    ]
    assert found == []


@pytest.mark.parametrize("kind", sorted(backends()))
def test_every_back_end_implements_the_interface(kind: str) -> None:
    wanted = {name for name in vars(Backend) if not name.startswith("_")} | set(Backend.__annotations__)
    assert wanted <= set(dir(backends()[kind]))


def test_package_with_a_back_end_is_found_without_registration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "jobs" / "other"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("")
    (other / "backend.py").write_text("from jobs.local.backend import Local\n\nBACKEND = Local()\n")
    (tmp_path / "cluster.yaml").write_text("kind: other\n")
    monkeypatch.setattr(jobs, "__path__", [*jobs.__path__, str(tmp_path / "jobs")])
    assert "other" in backend.kinds()
    assert backend.read_cluster(tmp_path / "cluster.yaml").kind == "other"
    assert backend.backend("other").is_available()
