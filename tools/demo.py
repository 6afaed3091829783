"""The demo: runs all stages on this machine, on real images.

It trains a small t-ReX* on seven of the ten digits, interrupts the training once on purpose, resumes it, extracts
features, probes them, does the same with raw pixels and an untrained encoder for comparison, and writes the report.

Run it with `make demo`. Each step is a command that you can also type; it is printed before it runs.
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
INTERRUPTED_AT = 60  #: the step after which the training is interrupted, in the middle of the fifth epoch


def say(text: str) -> None:
    """Print a line that differs from the jobs' log lines."""
    print(f"\n==> {text}", flush=True)


def trex(*words: str) -> None:
    """Run one command and wait for it. The demo ends if the command fails."""
    say("trex " + " ".join(words))
    code = subprocess.run([*TREX, *words], cwd=ROOT, check=False).returncode
    if code:
        sys.exit(f"demo: 'trex {' '.join(words)}' ended with exit code {code}")


def train_interrupted() -> None:
    """Start the training, interrupt it in the middle of an epoch as a preemption does, and wait until it has saved.

    Nothing happens if an earlier demo has come that far.
    """
    if steps_logged() >= INTERRUPTED_AT:
        say(f"the training in {RUN.root} was interrupted earlier and is continued")
        return
    words = ["train", "configs/demo.yaml", *HERE, "--processes", "2"]
    say("trex " + " ".join(words) + "     (will be interrupted)")
    job = subprocess.Popen([*TREX, *words], cwd=ROOT)
    while job.poll() is None and steps_logged() < INTERRUPTED_AT:
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
        + ("saved; the same command continues from this step" if code else "the training was already finished")
    )


def steps_logged() -> int:
    """The step of the newest metrics line; 0 if there is none."""
    lines = MetricsLine.read_lines(RUN.metrics).records
    return lines[-1].step if lines else 0


def main() -> None:
    """Run the demo, or continue it from where an earlier call stopped."""
    began = time.monotonic()
    train_interrupted()
    trex("run", "configs/demo.yaml", *HERE, "--processes", "2")
    for weights in ("untrained", "pixels"):
        trex("run", "configs/demo.yaml", f"name=demo_{weights}", f"extract.weights={weights}", *HERE)
    trex("report", "demo", "demo_untrained", "demo_pixels")
    say(f"done in {time.monotonic() - began:.0f} s; open {RUN.report_page}")


if __name__ == "__main__":
    main()
