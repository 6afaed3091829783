"""A real Slurm for the tests: the sandbox of tools/sandbox.py, started once for all tests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.slurm.ids import JobId, elements
from tests.pictures import write_digits

ROOT = Path(__file__).resolve().parents[2]
SANDBOX = [sys.executable, str(ROOT / "tools" / "sandbox.py")]
TREX = [sys.executable, "-m", "jobs.cli"]

#: A training of 3 x 15 steps, 16 images each, of which each is logged: about a minute with four processes.
TINY = """
data: {dataset: few_digits, folders: {few_digits: few_digits}, workers: 0}
crops: {global_size: 16, global_scale: [0.5, 1.0], local_count: 1, local_size: 16, local_scale: [0.2, 0.5], flip: 0,
        jitter: 0.5, global_blur: 0, local_blur: 0, blur_radius: [0.1, 1.0], solarize: 0}
model: {encoder: resnet18}
method: {hidden_dim: 32, output_dim: 16, memory_bank_size: 64, momentum: 0.9}
optimizer: {warmup_epochs: 1}
train: {epochs: 3, batch_size: 16, precision: "off", log_every: 1}
extract: {datasets: [digits, digits_unseen], resize: 32, crop: 32}
probe: {seeds: 2}
"""


#: A cluster file with jobs of one process, in the partition whose jobs are preempted.
SMALL = """
kind: slurm
train: {partition: gpu, gpus_per_node: 1, time: "00:30:00", signal_lead: 20}
extract: {partition: gpu, gpus_per_node: 1, time: "00:30:00", signal_lead: 20}
probe: {partition: gpu, gpus_per_node: 1, time: "00:30:00", signal_lead: 20}
report: {partition: cpu, time: "00:10:00"}
"""


#: States in accounting of a start that still runs or is followed by another start.
NOT_THE_END = {"PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "PREEMPTED", "NODE_FAIL"}


#: Seconds after which a test takes a wait for endless. No measure of speed: some machines are three times slower.
HANG = 800


def wait_for(what: Callable[[], Any], every: float = 0.2) -> Any:
    """Wait until `what` returns a true value, and return it."""
    deadline = time.monotonic() + HANG
    while not (value := what()):
        assert time.monotonic() < deadline, f"did not happen within {HANG} s"
        time.sleep(every)
    return value


@dataclass
class Site:
    """A running sandbox, and the working folder of a user."""

    sandbox: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH"))}
        outside |= {"SLURM_CONF": str(self.sandbox / "slurm.conf"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return outside

    def call(self, *words: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a program in the user's folder and environment."""
        settings = {"env": self.environment, "cwd": self.home, "timeout": HANG, **more}
        done = subprocess.run(words, capture_output=True, text=True, **settings)
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def trex(self, *words: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a `trex` command."""
        return self.call(*TREX, *words, check=check, **more)

    def run_of(self, name: str) -> Run:
        return Run(self, self.home / "runs" / name)

    def queue(self) -> dict[str, str]:
        """Return the state of each job in the queue."""
        lines = self.call("squeue", "--noheader", "--array", "--format", "%i %T").stdout.splitlines()
        return dict(line.split() for line in lines)

    def mine(self) -> list[str]:
        """Return the jobs in the queue that were submitted from this folder, with one id per array."""
        rows = self.call("squeue", "--noheader", "--format", "%F %Z").stdout.splitlines()
        return sorted({job for job, _, folder in (row.partition(" ") for row in rows) if folder == str(self.home)})

    def ended(self, *job_ids: str) -> None:
        """Wait until none of the jobs is in the queue."""
        wait_for(lambda: not set(job_ids) & set(self.queue()))

    def accounting(self, job_id: str, starts: int = 1) -> list[str]:
        """Return the state of each start of a job that has ended, after at least `starts` starts.

        Slurm writes the states into its database with some delay. So this waits until the last state is final.
        """

        def states() -> list[str] | None:
            found = self.recorded(job_id)
            return found if len(found) >= starts and found[-1] not in NOT_THE_END else None

        return wait_for(states)

    def recorded(self, job_id: str) -> list[str]:
        """Return the state of each start of a job in accounting. Slurm may never record a job that never started."""
        words = ["sacct", "-D", "-X", "-n", "-P", "-j", job_id.partition("_")[0], "-o", "JobID,State"]
        rows = [line.split("|") for line in self.call(*words).stdout.splitlines()]
        return [state.split()[0] for name, state in rows if JobId.parse(job_id) in elements(name)]

    @property
    def preempted(self) -> str:
        """State in accounting of a start that ended in the grace time of a preemption and is followed by another."""
        return "PREEMPTED" if self.requeues_preempted else "REQUEUED"

    @property
    def requeues_preempted(self) -> bool:
        """Whether this Slurm itself requeues a job that ends in the grace time, whatever its exit code."""
        found = re.search(r"(\d+)\.(\d+)", self.call("sinfo", "--version").stdout)
        assert found
        return (int(found[1]), int(found[2])) >= (24, 5)

    def urgent(self, node: str) -> str:
        """Submit an urgent job that needs all GPUs of a node; returns its id."""
        words = ["--parsable", "-p", "urgent", "-w", node, "--gres=gpu:4", "-o", "/dev/null", "--wrap", "sleep 1"]
        return self.call("sbatch", *words).stdout.strip()

    def preempt(self, node: str) -> str:
        """Preempt the jobs on a node by an urgent job; returns the id of that job once it runs."""
        job = self.urgent(node)
        wait_for(lambda: self.queue().get(job) != "PENDING")
        return job

    def nodes_of(self, job: str) -> list[str]:
        """Return the nodes of a running job."""
        found = self.call("squeue", "--local", "--noheader", "--jobs", job, "--format", "%N").stdout.strip()
        assert found
        return self.call("scontrol", "show", "hostnames", found).stdout.split()

    def node_of(self, job: str) -> str:
        """Return the first node of a running job."""
        return self.nodes_of(job)[0]

    def restarts(self, job: str) -> int:
        """Return how many times Slurm has requeued a job."""
        found = re.search(r"\bRestarts=(\d+)", self.call("scontrol", "--local", "show", "job", "-o", job).stdout)
        assert found
        return int(found[1])

    def node(self, command: str, name: str) -> None:
        """Run a sandbox command on a node: `fail-node` or `revive-node`."""
        self.call(*SANDBOX, command, name, "--folder", str(self.sandbox))


@dataclass
class Run:
    """A run, read from its files."""

    site: Site
    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    def jobs(self) -> dict[str, str]:
        """Return the newest job id of each key."""
        return {
            key: job for line in _lines(self.root / "jobs" / "submitted.jsonl") for key, job in line["jobs"].items()
        }

    def state(self, key: str = "train") -> dict[str, Any]:
        path = self.root / "jobs" / f"{key}.state.json"
        return json.loads(path.read_text()) if path.exists() else {"state": "nothing"}

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in _lines(self.root / "events.jsonl") if line["kind"] == name]

    def step(self) -> int:
        """Return the newest step in the metrics."""
        return max((line["step"] for line in _lines(self.root / "metrics.jsonl")), default=0)

    def log(self, key: str = "train") -> str:
        """Return the log of the newest job of a key."""
        path = self.root / "jobs" / "slurm" / f"{self.jobs()[key]}_0_log.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def reach(self, step: int) -> None:
        wait_for(lambda: self.step() >= step, every=0.05)

    def main_process(self, key: str = "train") -> int:
        """Return the process id of rank 0 of a running job."""
        return int(json.loads(max((self.root / "jobs").glob(f"{key}.lock.*")).read_text())["pid"])

    @contextlib.contextmanager
    def frozen(self, key: str = "train") -> Iterator[int]:
        """Stop rank 0 of a job during the block; the other ranks wait for it.

        Otherwise a fast machine could finish the job before Slurm interrupts it.
        """
        pid = self.main_process(key)
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_for(lambda: process_status(pid, "State")[:1] == "T", every=0.01)
            yield pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def interrupt(
        self, cause: Callable[[], object], number: signal.Signals = signal.SIGTERM, key: str = "train"
    ) -> None:
        """Call `cause`, which makes Slurm signal a job. Rank 0 is stopped until the signal has arrived."""
        with self.frozen(key) as pid:
            cause()
            # Before most signals, Slurm itself continues the stopped process.
            wait_for(lambda: has_pending(pid, number) or process_status(pid, "State")[:1] != "T", every=0.05)

    def final_state(self) -> dict[str, Any]:
        """Return everything in the newest checkpoint."""
        from trex.training.checkpoint import Checkpoints

        checkpoint = Checkpoints(self.root / "checkpoints").newest()
        assert checkpoint is not None
        assert checkpoint.finished
        return checkpoint.load()


def process_status(pid: int, field: str) -> str:
    """Return a field of /proc/PID/status; empty if the process is gone."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{field}:\s*(.*)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return found[1] if found else ""
    return ""


def has_pending(pid: int, number: signal.Signals) -> bool:
    """Return whether a signal is pending for a stopped process."""
    return bool(int(process_status(pid, "ShdPnd") or "0", 16) >> (number - 1) & 1)


def has_ended(pid: int) -> bool:
    """Return whether a process has ended. A zombie counts too, because in a container nobody may wait for it."""
    return process_status(pid, "State")[:1] in ("", "Z", "X")


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    found = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return [child for child in found if process_status(child, "PPid") == str(pid)]


def pinned(cpus: int) -> dict[str, Any]:
    """Return the settings of a call that may use at most `cpus` CPUs.

    A local process uses one thread per CPU that it may use, and the number of threads changes the order of additions.
    The Slurm jobs of these tests have one CPU per process.
    """
    chosen = sorted(os.sched_getaffinity(0))[:cpus]
    return {"preexec_fn": lambda: os.sched_setaffinity(0, chosen)}


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a JSON Lines file, without a last line that is still being written."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1] if line]


def start_sandbox(*options: str, inside: Sequence[str] = ()) -> Path:
    """Start a sandbox in a new folder. Without Slurm's packages, the test is skipped, or fails in CI.

    Args:
        options: options of `tools/sandbox.py up`.
        inside: a program and its arguments, which executes the command that follows them.
    """
    folder = Path(tempfile.mkdtemp(prefix="trex-", dir="/tmp")) / "s"
    words = [*inside, *SANDBOX, "up", "--folder", str(folder), *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 2 and "missing on this machine" in done.stderr and not os.environ.get("CI"):
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    return folder


def stop_sandbox(folder: Path) -> None:
    subprocess.run([*SANDBOX, "down", "--folder", str(folder)], check=True, capture_output=True)
    shutil.rmtree(folder.parent)


def make_site(folder: Path, home: Path) -> Site:
    home.mkdir(exist_ok=True)
    write_digits(home / "few_digits", train=35, val=8)
    (home / "tiny.yaml").write_text(TINY)
    (home / "small.yaml").write_text(SMALL)
    return Site(folder, home)


@pytest.fixture(scope="session")
def cluster_folder() -> Iterator[Path]:
    folder = start_sandbox()
    try:
        yield folder
    finally:
        stop_sandbox(folder)


@pytest.fixture
def site(cluster_folder: Path, tmp_path: Path) -> Iterator[Site]:
    """The sandbox that all tests share, and a new working folder. Cancels the test's jobs at the end."""
    site = make_site(cluster_folder, tmp_path / "home")
    yield site
    site.call("scancel", *site.mine(), check=False)
    wait_for(lambda: not site.mine())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests here: they need Slurm, and need more time because trainings are restarted."""
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.timeout(1200))
