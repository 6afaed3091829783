"""What a process of a job runs before Python: the lines of setup_process and the launcher of a cluster file."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.backend import load_cluster
from jobs.plan.cluster import Cluster
from jobs.plan.runs import save_config
from jobs.slurm import verify
from jobs.slurm.snapshot import take_snapshot
from jobs.slurm.start import COMMAND, command, findings, quoted
from tests.jobs.batch import run_script
from tests.jobs.conftest import FakeSlurm
from trex.config import Config
from trex.errors import TrexError
from trex.records.run_dir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "a run's folder" / "run")
    save_config(run, Config())
    take_snapshot(run)
    return run


def cluster(**settings: object) -> Cluster:
    return replace(load_cluster("sandbox"), **settings)  # type: ignore[arg-type]


def notes(run: RunDir) -> list[str]:
    return [path.name for path in run.jobs.glob("not-started*")]


def test_lines_launcher_and_python_are_one_process_and_its_exit_code_is_the_jobs(run: RunDir, tmp_path: Path) -> None:
    """Many clusters signal only the process that Slurm started."""
    program = tmp_path / "my launcher"
    program.write_text('#!/bin/bash\necho launcher $$ "$1" "$2" "$3"\nshift 3\nexec "$@"\n')
    program.chmod(0o755)
    python = tmp_path / "other" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/bash\necho python $$ "${{@: -1}}"\n[ "$1" = -I ] && exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    text = f"launcher: \"'{program}' --to=$PLACE/x ' $5 && `ls` ' '{{}}'\"\npython: ${{PLACE}}/other/python\n"
    (tmp_path / "c.yaml").write_text(f"{text}setup_process: ['export PLACE={tmp_path}; echo line $$ $#', 'set -eu']\n")
    done = run_script(run, load_cluster(str(tmp_path / "c.yaml")))
    assert done.returncode == 0, done.stdout + done.stderr
    line, launcher, started, *_ = done.stdout.splitlines()[1:]
    pid = line.removeprefix("line ").removesuffix(" 0")
    assert launcher == f"launcher {pid} --to={tmp_path}/x  $5 && `ls`  {{}}"
    assert started == f'python {pid} {{"stage": "report", "run": "{run.root}", "items": [], "staging": ""}}'
    assert f"report: {run.report_page}" in done.stdout


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ls /nowhere", "on node n1, code 2 from the setup_process line: ls /nowhere"),
        ("if true; then", "on node n1, code 2 from the setup_process line: if true; then"),
        ("exit 0", "on node n1, the shell ended with code 0 at: exit 0"),
        ("exit 75", "on node n1, the shell ended with code 75 at: exit 75"),
        ("set -u; echo $UNKNOWN", "on node n1, the shell ended with code 127 at: set -u; echo $UNKNOWN"),
    ],
)
def test_line_that_fails_ends_the_job_with_its_node_and_is_not_requeued(run: RunDir, line: str, said: str) -> None:
    done = run_script(run, cluster(setup_process=("true", line, "echo too far")))
    assert done.returncode == 2
    assert f"not started: {said}\n" in done.stderr
    last = done.stdout.splitlines()[-1]
    again = f"trex retry {shlex.quote(str(run.root))}"
    assert last.endswith(f"job 7: not started: {said}: not requeued. Fix the cause, then run: {again}")
    assert "requeued 7" not in done.stdout
    assert "too far" not in done.stdout
    assert notes(run) == []


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        (
            {"launcher": "aptainer exec x.sif"},
            127,
            "aptainer: not found on node n1: expected the program of `launcher`",
        ),
        ({"python": "/no/python"}, 127, "/no/python: not found on node n1: expected the Python that submitted the job"),
        ({"launcher": "env -i"}, 2, "Slurm's variables are not set: expected a `launcher` that passes the environment"),
        ({"launcher": "env", "python": "/no/python"}, 127, "env ended with code 127, and the lines above say why"),
        ({"launcher": "env $NOWHERE"}, 2, "on node n1, the shell ended with code 127 at: launcher and python of the"),
        (
            {"launcher": "bash -c 'exit 255'"},
            255,
            "bash -c 'exit 255' ended with code 255, and the lines above say why",
        ),
    ],
)
def test_launcher_that_cannot_start_python_is_one_clear_line_and_not_requeued(
    run: RunDir, settings: dict[str, str], code: int, said: str
) -> None:
    done = run_script(run, cluster(**settings))
    assert done.returncode == code, done.stdout + done.stderr
    [line] = [line for line in done.stdout.splitlines() if "not started: " in line]
    assert f"job 7: not started: {said}" in line
    assert "not requeued. Fix the cause, then run: trex retry" in line
    assert "requeued 7" not in done.stdout


@pytest.mark.parametrize("signal", ["TERM", "USR2"])
def test_stop_signal_during_a_line_requeues_the_job(run: RunDir, signal: str) -> None:
    line = f"bash -c 'kill -{signal} $PPID; kill -TERM $$'"  # some clusters signal the shell and its child
    done = run_script(run, cluster(setup_process=(line, "echo too far")))
    assert done.returncode == 75
    assert "requeue: stopped before the work started\nrequeued 7\n" in done.stdout
    assert "too far" not in done.stdout


def test_python_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert verify.unsuitable() == ""
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    assert verify.unsuitable().endswith("is Python 3.9: expected 3.11 or newer; set `python` in the cluster file")


@pytest.mark.parametrize(
    "word", ["", "a b", "it's", "$(touch pwned)", "`touch pwned`", "$5", '"$@"', "a\\", "--x=~/y", "$"]
)
def test_word_without_a_variable_reaches_the_program_as_it_is(word: str) -> None:
    assert _words(quoted(word)) == [word]


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("$A", "two  words"),
        ("x${A}y'$A", "xtwo  wordsy'two  words"),
        ("~/x", "/home/me/x"),
        ("$HOME/`ls`", "/home/me/`ls`"),
    ],
)
def test_variable_in_a_word_is_that_of_the_node(word: str, meaning: str) -> None:
    assert _words(quoted(word)) == [meaning]


def _words(text: str) -> list[str]:
    program = "import json, sys; print(json.dumps(sys.argv[1:]))"
    lines = f"'{sys.executable}' -I -S -c '{program}' {text}"
    done = subprocess.run(
        ["bash", "-c", lines], env={"A": "two  words", "HOME": "/home/me"}, capture_output=True, check=True
    )
    found: list[str] = json.loads(done.stdout)
    return found


def test_options_of_srun_are_passed_with_their_values_as_single_words(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "process_options: {label: yes, container-image: 'nvcr.io#nvidia/py torch', container-mounts: '$TMPDIR:/x'}\n"
    )
    assert command(load_cluster(str(path))) == (
        "--label --container-image='nvcr.io#nvidia/py torch' "
        f'--container-mounts="${{TMPDIR:?is not set on this node}}":/x {COMMAND}'
    )


REFUSED = {
    "which the toolkit sets itself": "error output kill-on-bad-exit wait open-mode unbuffered job-name",
    "use nodes and tasks_per_node": "nodes ntasks ntasks-per-node",
    "use cpus_per_task": "cpus-per-task",
    "use time of a stage": "time",
    "variables of the toolkit": "export export-file",
    "starts nothing": "help test-only usage version",
    "would not be those of the toolkit": "multi-prog chdir jobid relative input pty",
    "of a failed node": "no-kill",
    "has kill for kill-on-bad-exit": "kill",
}


@pytest.mark.parametrize(
    ("reason", "option"), [(why, name) for why, names in REFUSED.items() for name in names.split()]
)
def test_option_of_srun_that_would_change_the_job_is_refused_with_the_reason(
    tmp_path: Path, reason: str, option: str
) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f'kind: slurm\nprocess_options: {{{option}: "yes"}}\n')
    with pytest.raises(
        TrexError, match=rf"cluster\.yaml:2:\d+: 'process_options' has {option}.*{reason}|'process_options' {reason}"
    ):
        load_cluster(str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "launcher: apptainer exec 'x",
            r"'launcher' is \"apptainer exec 'x\": expected words, quoted as in a shell \(no",
        ),
        ("launcher: [apptainer, exec]", "'launcher' expected text, got a list"),
        ("python: ''", "'python' is empty: expected a path or the name of a program"),
        (
            "process_options: {Label: yes}",
            "'process_options' has Label: 'yes': expected the long name of an option, and its value",
        ),
        (
            "process_options: {mpi: ''}",
            "'process_options' has mpi: '': expected the long name of an option, and its value",
        ),
    ],
)
def test_mistake_in_these_settings_is_refused_with_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"kind: slurm\n{text}\n")
    with pytest.raises(TrexError, match=rf"cluster\.yaml:2:\d+: {said}"):
        load_cluster(str(path))


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        ("apptainer exec x.sif", "launcher: warning: apptainer was not found on this machine; the nodes need it"),
        ("$HERE/squeue x", "launcher: {folder}/squeue"),
        ("squeue x", "launcher: {folder}/squeue"),
        ("$UNKNOWN/x", ""),
        ("", ""),
    ],
)
def test_check_warns_of_a_launcher_that_is_not_here(
    fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, launcher: str, said: str
) -> None:
    fake_slurm.says("squeue")
    monkeypatch.setenv("HERE", str(fake_slurm.folder))
    found = [finding for finding in findings(cluster(launcher=launcher)) if finding.ok]
    expected = [f"slurm: {said.format(folder=fake_slurm.folder)}"] if said else []
    assert [finding.text for finding in found] == expected
