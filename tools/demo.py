"""The whole way on this machine, on real images: train a small t-ReX* on seven of the ten digits, interrupt it once on
purpose, resume it, extract features, probe them beside raw pixels and an untrained encoder, write the report.

Run it as `make demo`. Every step is a command that a person can type; it is printed before it runs.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from trex.errors import ExitCode
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[1]
RUN = RunDir(ROOT / "runs" / "demo")
TREX = [sys.executable, "-m", "jobs.cli"]
HERE = ["--cluster", "local"]


def say(text: str) -> None:
    """A line of the demo's own, apart from the log lines of the jobs."""
    print(f"\n==> {text}", flush=True)


def trex(*words: str) -> None:
    """Run one command to its end; the demo ends with the first that fails."""
    say("trex " + " ".join(words))
    code = subprocess.run([*TREX, *words], cwd=ROOT, check=False).returncode
    if code:
        sys.exit(f"demo: 'trex {' '.join(words)}' ended with exit code {code}")


def train_interrupted() -> None:
    """Begin the training, send it the signal of a preemption in the middle of an epoch, and see it save."""
    words = ["train", "configs/demo.yaml", *HERE, "--processes", "2"]
    say("trex " + " ".join(words) + "     (to be interrupted)")
    job = subprocess.Popen([*TREX, *words], cwd=ROOT)
    while job.poll() is None and steps_logged() < 60:
        time.sleep(0.1)
    if job.poll() is None:
        say("sending SIGTERM, as a preemption does")
        job.send_signal(signal.SIGTERM)
    code = job.wait()
    if code not in (ExitCode.DONE, ExitCode.INTERRUPTED):
        expected = ExitCode.INTERRUPTED
        sys.exit(f"demo: the training ended with exit code {code}, expected {expected:d} ({expected.meaning})")
    say(
        f"exit code {code}: "
        + ("saved; the same command continues from that step" if code else "it had finished before")
    )


def steps_logged() -> int:
    """The step of the newest line of metrics."""
    lines = MetricsLine.read_lines(RUN.metrics).records
    return lines[-1].step if lines else 0


def main() -> None:
    """The demo, from nothing or from wherever an earlier call of it stopped."""
    began = time.monotonic()
    train_interrupted()
    trex("run", "configs/demo.yaml", *HERE, "--processes", "2")
    for weights in ("untrained", "pixels"):
        trex("run", "configs/demo.yaml", f"name=demo_{weights}", f"extract.weights={weights}", *HERE)
    trex("report", "demo", "demo_untrained", "demo_pixels")
    say(f"done in {time.monotonic() - began:.0f} s; open {RUN.report_page}")


if __name__ == "__main__":
    main()
