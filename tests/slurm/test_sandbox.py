"""The Slurm sandbox on one machine: it starts, it stops, and it leaves nothing behind."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.conftest import HANG, ROOT, SANDBOX, make_site, start_sandbox, stop_sandbox, wait_for


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of the running processes of the sandbox in `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            if str(folder).encode() in words and int(path.name) != os.getpid():
                found.append(words.split(b"\0")[0].decode(errors="replace"))
        except OSError:
            continue
    return found


def sandbox(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SANDBOX, *words], capture_output=True, text=True, check=False, timeout=600, **more)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, because the paths of Slurm's sockets in it must be short."""
    parent = Path(tempfile.mkdtemp(prefix="trex-", dir="/tmp"))
    yield parent / "s"
    sandbox("down", "--folder", str(parent / "s"))
    shutil.rmtree(parent)


def test_down_ends_running_jobs_and_leaves_no_process_and_no_file(folder: Path, tmp_path: Path) -> None:
    assert sandbox("up", "--folder", str(folder)).returncode == 0
    site = make_site(folder, tmp_path / "home")
    stubborn = "trap '' TERM; while true; do sleep 1; done"
    site.call("sbatch", "-N2", "-n4", "--gres=gpu:2", "--wrap", f"srun bash -c {stubborn!r}")
    wait_for(lambda: "RUNNING" in site.queue().values())
    assert processes_of(folder)
    assert sandbox("down", "--folder", str(folder)).returncode == 0
    assert processes_of(folder) == []
    assert list(folder.parent.iterdir()) == []


def test_second_up_changes_nothing_and_prints_the_same_line(folder: Path) -> None:
    first = sandbox("up", "--folder", str(folder), "--no-accounting")
    before = sorted(processes_of(folder))
    second = sandbox("up", "--folder", str(folder))
    assert second.stdout == first.stdout == f"export SLURM_CONF={folder}/slurm.conf\n"
    assert "already running" in second.stderr
    assert sorted(processes_of(folder)) == before


@pytest.mark.parametrize("seconds", [0.3, 0.8, 1.3, 1.8])
def test_down_removes_everything_after_a_killed_up(folder: Path, seconds: float) -> None:
    up = subprocess.Popen(
        [*SANDBOX, "up", "--folder", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(seconds)
    up.send_signal(signal.SIGKILL)
    up.wait()
    assert sandbox("down", "--folder", str(folder)).returncode == 0
    assert processes_of(folder) == []
    assert not folder.exists()


def test_up_after_a_killed_up_works(folder: Path) -> None:
    up = subprocess.Popen(
        [*SANDBOX, "up", "--folder", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(1.0)
    up.send_signal(signal.SIGKILL)
    up.wait()
    assert sandbox("up", "--folder", str(folder), "--no-accounting").returncode == 0
    assert "idle" in sandbox("status", "--folder", str(folder)).stdout


def test_no_other_program_can_take_a_port_of_a_sandbox_that_starts_or_of_a_node_that_failed(folder: Path) -> None:
    up = subprocess.Popen(
        [*SANDBOX, "up", "--folder", str(folder), "--no-accounting"], stderr=subprocess.PIPE, text=True
    )
    conf = folder / "slurm.conf"
    wait_for(lambda: conf.exists() and "PartitionName=cpu" in conf.read_text(), every=0.001)
    address = socket.gethostbyname(socket.gethostname().split(".")[0])
    ports = [int(port) for port in re.findall(r"Port=(\d+)", conf.read_text())]
    with contextlib.ExitStack() as held:
        taken = [port for port in ports if takes(address, port, held)]
        message = up.communicate()[1]
    assert taken == []
    assert up.returncode == 0, message
    assert sandbox("fail-node", "n2", "--folder", str(folder)).returncode == 0
    with contextlib.ExitStack() as held:
        assert len(ports) >= 5
        assert [port for port in ports if takes(address, port, held)] == []


def takes(address: str, port: int, held: contextlib.ExitStack) -> bool:
    """Return whether a program can take this port; it then holds the port as long as `held` is open."""
    one = held.enter_context(socket.socket())
    try:
        one.bind((address, port))
        one.listen()
    except OSError:
        return False
    return True


def up_with(program: str, script: str, folder: Path, seconds: float) -> tuple[list[str], float]:
    """Start a sandbox that waits `seconds`, with `script` in the place of one of its programs.

    Returns:
        The lines of the error message, and the seconds that it took.
    """
    path = folder.parent / "bin" / program
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r}); import sandbox\n"
        f"sandbox.SECONDS_TO_START = {seconds}\n"
        f"sys.argv = ['sandbox.py', 'up', '--no-accounting', '--folder', {str(folder)!r}]; sys.exit(sandbox.main())"
    )
    env, began = {**os.environ, "PATH": f"{path.parent}:{os.environ['PATH']}"}, time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=HANG
    )
    assert done.returncode == 1
    assert not folder.exists()
    return done.stderr.splitlines(), time.monotonic() - began


def test_daemon_that_ends_is_an_error_at_once_that_shows_its_last_lines(folder: Path) -> None:
    message, seconds = up_with("slurmctld", "echo 'slurmctld: fatal: the disk is full' >&2; exit 3", folder, 100)
    assert message == [
        "sandbox: error: slurmctld ended with exit code 3",
        "slurmctld: fatal: the disk is full",
    ]
    assert seconds < 60


def test_node_that_does_not_start_is_named_and_errors_of_every_start_are_left_out(folder: Path) -> None:
    slurmd = shutil.which("slurmd", path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin")
    script = f'case "$*" in *n2*) echo "waits for its disk"; exec sleep 600;; esac\nexec {slurmd} "$@"'
    message, _ = up_with("slurmd", script, folder, 20)
    expected = r"sandbox: error: slurmd did not start within 20 s: n1 is \S+, n2 is (?!idle)\S+, n3 is \S+, n4 is \S+"
    assert re.fullmatch(expected, message[0])
    assert "slurmd.n2: waits for its disk" in message
    assert not [line for line in message if "pmix" in line.lower() or "state file" in line or "slurmd.n1" in line]


def test_missing_packages_are_named(folder: Path, tmp_path: Path) -> None:
    empty = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r}); import sandbox; from pathlib import Path\n"
        f"sandbox.require_packages(sandbox.Options(), {str(tmp_path)!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], env=empty, capture_output=True, text=True, check=False)
    assert "apt-get install --no-install-recommends slurm-wlm munge slurmdbd mariadb-server" in done.stderr


def test_folder_that_is_not_a_sandbox_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    for command in ("up", "down"):
        assert sandbox(command, "--folder", str(folder)).returncode == 2
    assert (folder / "thesis.tex").read_text() == "years of work"


def test_daemons_listen_only_on_the_address_of_the_host_name(cluster_folder: Path) -> None:
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    daemons = [line for line in listening.splitlines() if "slurm" in line or "maria" in line]
    ours = [line for line in daemons if any(carries(pid, cluster_folder) for pid in re.findall(r"pid=(\d+)", line))]
    assert len(ours) >= 6
    address = json.loads((cluster_folder / "sandbox.json").read_text())["address"]
    assert address == socket.gethostbyname(socket.gethostname().split(".")[0])
    assert {line.split()[3].rpartition(":")[0] for line in ours} == {address}, ours


def carries(pid: str, folder: Path) -> bool:
    """Return whether a process belongs to the sandbox in `folder`; other sandboxes may run on this machine."""
    try:
        return str(folder).encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def test_sandbox_works_without_root(folder: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("not root: all other tests here already run without root")
    folder.parent.chmod(0o755)
    work = folder.parent / "plain"
    shutil.copytree(ROOT / "tools", work / "tools")
    for path in (work, *work.rglob("*")):
        os.chown(path, 65534, 65534)
    tool, place = str(work / "tools" / "sandbox.py"), ["--folder", str(work / "s")]
    settings = {"user": 65534, "group": 65534, "env": {"PATH": os.environ["PATH"], "HOME": str(work)}, "cwd": work}

    def plain(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=HANG, **settings)  # type: ignore[call-overload, no-any-return]

    plain("python3", tool, "up", *place)
    try:
        settings["env"] |= {"SLURM_CONF": str(work / "s" / "slurm.conf")}  # type: ignore[operator]
        words = [
            "srun",
            "-N2",
            "--ntasks-per-node=2",
            "--gres=gpu:2",
            "bash",
            "-c",
            "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES",
        ]
        assert sorted(plain(*words).stdout.splitlines()) == ["n1 0,1"] * 2 + ["n2 0,1"] * 2
    finally:
        plain("python3", tool, "down", *place)
    assert processes_of(work / "s") == []


def test_accounting_records_a_failed_job_and_other_databases_keep_their_temporary_tables() -> None:
    descriptor, table = tempfile.mkstemp(prefix="#sql-temptable-", suffix=".MAI", dir="/tmp")  # as another mariadbd's
    os.close(descriptor)
    folder = start_sandbox()
    try:
        assert Path(table).exists()
        Path(table).unlink()
        site = make_site(folder, folder.parent / "home")
        job = site.call("sbatch", "--parsable", "-o", "/dev/null", "--wrap", "exit 3").stdout.strip()
        assert site.accounting(job) == ["FAILED"]
    finally:
        stop_sandbox(folder)


def test_daemons_of_a_node_are_killed_before_the_processes_that_they_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise slurmstepd could report the end of a job on a node that has lost its power."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    processes = importlib.import_module("sandbox_files.processes")
    daemon = tmp_path / "slurmstepd"
    shutil.copy("/bin/sleep", daemon)
    watched = [subprocess.Popen(["/bin/sleep", "600"], cwd=tmp_path) for _ in range(2)]  # older, and so listed first
    step = subprocess.Popen([daemon, "600"], cwd=tmp_path)
    killed: list[int] = []
    kill = os.kill
    monkeypatch.setattr(os, "kill", lambda pid, number: (killed.append(pid), kill(pid, number)))
    wait_for(lambda: step.pid in {one.pid for one in processes.own_processes().values() if one.name == "slurmstepd"})
    assert processes.kill_all(lambda process: process.cwd == tmp_path)
    assert killed[0] == step.pid
    assert set(killed) == {step.pid, *(one.pid for one in watched)}
    for one in (step, *watched):
        one.wait()
