"""Measures this project against the usual way, and writes the pages in benchmarks/.

    python -m tools.bench            # all topics; make bench
    python -m tools.bench crops      # make bench ONLY=crops

Each topic runs in a process of its own, with one thread per library, and both ways run in that process alternately.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys

from tools.bench.page import Topic, write_page

TOPICS = ("crops", "loader", "extraction", "features", "checkpoint", "step", "probes", "commands")
#: One thread per library; the topics that need more threads or processes start them.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def main() -> int:
    """Measure the topics that are named. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description="Measure against the usual way.")
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"of {', '.join(TOPICS)}; all if none is named")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in this process
    given = parser.parse_args()
    unknown = [name for name in given.topics if name not in TOPICS]
    if unknown:
        parser.error(f"no topic {', '.join(unknown)}: expected {', '.join(TOPICS)}")
    failed = []
    for name in given.topics or TOPICS:
        if given.here:
            topic = importlib.import_module(f"tools.bench.{name}").TOPIC
            assert isinstance(topic, Topic)
            write_page(name, topic)
        elif subprocess.run(
            [sys.executable, "-m", "tools.bench", "--here", name], env={**os.environ, **ONE_THREAD}, check=False
        ).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
