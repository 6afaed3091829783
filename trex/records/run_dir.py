"""The run folder: one class names every path, so that nothing else joins path strings.

runs/<name>/
  config.yaml  environment.json  code/          what runs, exactly
  checkpoints/epoch-0003-step-00001000/         full training states (trex/training/checkpoint.py)
  metrics.jsonl  events.jsonl  tensorboard/     curves; attempts and why each ended
  jobs/                                         sbatch scripts, logs, submitted ids, stage states, locks
  features/<dataset>/{trainval,test}.h5
  probes/<dataset>/<probe>/seed_<n>.json
  report/index.html  report/results.csv
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from trex.config.schema import NAME, Config
from trex.errors import UserError


@dataclass(frozen=True)
class RunDir:
    """Paths of one run. Creates nothing by itself."""

    root: Path

    @classmethod
    def of(cls, config: Config) -> RunDir:
        """The folder of a config's run, as an absolute path."""
        return cls((Path(config.runs).expanduser() / config.name).absolute())

    @property
    def name(self) -> str:
        """The run's name."""
        return self.root.name

    @property
    def config(self) -> Path:
        """The resolved config, all defaults written out."""
        return self.root / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions and machine of the newest attempt."""
        return self.root / "environment.json"

    @property
    def code(self) -> Path:
        """Snapshot of the code that the run's jobs execute."""
        return self.root / "code"

    @property
    def checkpoints(self) -> Path:
        """Full training states, a folder each."""
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Training and validation metrics, a JSON object a line."""
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """What happened to the run: attempts, interruptions, checkpoints, a JSON object a line."""
        return self.root / "events.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.root / "tensorboard"

    @property
    def jobs(self) -> Path:
        """Submission scripts, logs, ids, stage states; private to its owner."""
        return self.root / "jobs"

    @property
    def report(self) -> Path:
        """The report's folder."""
        return self.root / "report"

    def features(self, dataset: str, split: str) -> Path:
        """Feature file of one split (`trainval` or `test`) of a dataset."""
        return self.root / "features" / _plain(dataset) / f"{_plain(split)}.h5"

    def probes(self, dataset: str) -> Path:
        """Probe results of a dataset: a folder a kind of probe."""
        return self.root / "probes" / _plain(dataset)

    def probe(self, dataset: str, probe: str, seed: int) -> Path:
        """Result of one probe (`exact`, `published`, `exact-5shot`, `knn20`, …) with one seed."""
        return self.probes(dataset) / _plain(probe) / f"seed_{seed}.json"


def _plain(part: str) -> str:
    """`part` if it is a plain name; a name never becomes a path that leaves the run folder."""
    if not re.fullmatch(NAME, part):
        raise UserError(f"{part!r} is not a name: expected letters, digits, '.', '_' or '-', at most 64")
    return part
