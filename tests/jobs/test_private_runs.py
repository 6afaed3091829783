"""Runs of a colleague that this user may not read, beside runs of one's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.plan.runs import save_config
from trex.config import Config, load
from trex.records.job_state import JobState, State
from trex.records.run_dir import RunDir

ME, COLLEAGUE = 2001, 2002
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two other users")

#: Runs commands as another user. What they import is imported before, because that user may not read root's Python.
AS_ME = f"""
import contextlib, io, json, os, statistics, sys
import trex.reporting.collect, trex.reporting.write
from jobs import cli
from jobs.local import backend
from jobs.slurm import backend
os.setgroups([])
os.setgid({ME})
os.setuid({ME})
results = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = cli.main(words)
    results.append((code, out.getvalue(), err.getvalue()))
json.dump(results, sys.stdout)
"""


def make(home: Path, name: str, user: int) -> Path:
    """Make a run of a user whose training is running, and return its folder."""
    run = RunDir(home / "runs" / name)
    save_config(run, load(home / "recipe.yaml", Config, [f"name={name}"]))
    JobState(State.RUNNING, None, "", None, "7", 0, "", 1, 0.0).save(run, "train")
    for path in (run.root, *run.root.rglob("*")):
        os.chown(path, user, user)
    return run.root


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that all users can read, with my run and two of a colleague: the usual one and a closed one."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        home.chmod(0o755)
        (home / "recipe.yaml").write_text("extract: {weights: pixels, datasets: []}\n")
        make(home, "mine", ME)
        make(home, "theirs", COLLEAGUE)
        make(home, "closed", COLLEAGUE).chmod(0o700)
        (home / "runs" / "lost+found").mkdir(0o700)  # no run can have this name
        yield home


def trex(home: Path, *commands: str) -> list[tuple[int, str, str]]:
    """Run commands as me; return the exit code, output and errors of each."""
    words = [sys.executable, "-c", AS_ME, json.dumps([command.split() for command in commands])]
    done = subprocess.run(words, cwd=home, capture_output=True, text=True, env={**os.environ, "HOME": "/nowhere"})
    assert done.returncode == 0, done.stderr
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]


def test_status_shows_mine_and_says_that_theirs_are_private(home: Path) -> None:
    [(code, out, err)] = trex(home, "status")
    assert code == 0
    assert out.startswith("mine\n")
    assert "theirs" not in out
    assert err.splitlines() == [
        f"trex: left out: runs/{name}: only user {COLLEAGUE} can read {home / 'runs' / private}: it is private"
        for name, private in (("closed", "closed"), ("theirs", "theirs/jobs"))
    ]


def test_command_about_a_private_run_says_that_it_is_private(home: Path) -> None:
    private = {"theirs": "theirs/jobs", "closed": "closed"}
    cases = [(words, name) for words in ("status", "logs", "cancel", "retry") for name in private]
    found = trex(home, *(f"{words} {name}" for words, name in cases))
    assert found == [
        (2, "", f"trex: error: only user {COLLEAGUE} can read {home / 'runs' / private[name]}: it is private\n")
        for _, name in cases
    ]


def test_report_compares_with_what_a_colleague_lets_others_read(home: Path) -> None:
    (home / "out").mkdir()
    os.chown(home / "out", ME, ME)
    readable, closed = trex(home, "report mine theirs --to out", "report mine closed --to out")
    assert readable[0] == 0, readable
    assert (home / "out" / "index.html").exists()
    assert (closed[0], "runs/closed: it is private" in closed[2]) == (2, True)


def test_run_of_a_colleague_cannot_be_continued(home: Path) -> None:
    for code, _, err in trex(home, "train theirs --cluster local", "run theirs --cluster local"):
        assert (code, "belongs to another user: expected a folder of your own" in err) == (2, True)


def test_file_that_cannot_be_read_leaves_out_no_other_run(home: Path) -> None:
    for name in ("checkpoints", "probes", "milestones", "metrics.jsonl", "events.jsonl", "config.yaml"):
        theirs = make(home, name.partition(".")[0], COLLEAGUE)
        (theirs / "jobs").chmod(0o755)
        if "." not in name:
            (theirs / name).mkdir()
        (theirs / name).touch()
        (theirs / name).chmod(0)
    [(code, out, err)] = trex(home, "status")
    shown = {line for line in out.splitlines() if not line.startswith(" ")}
    assert (code, "mine" in shown, "Traceback" in err) == (0, True, False)
    for name in ("checkpoints", "probes", "milestones", "metrics", "events", "config"):
        assert name in shown or f"/{name}: " in err, f"{out}\n{err}"
