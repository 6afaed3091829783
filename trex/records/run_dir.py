"""The run folder. `RunDir` names every path in it; no other code joins these paths.

runs/<name>/
  config.yaml  code/                            settings and code of the run
  checkpoints/epoch-0003-step-00001000/         full training states (trex/training/checkpoint.py)
  metrics.jsonl  events.jsonl  tensorboard/     metrics; attempts, what each ran on and why it ended
  jobs/                                         batch scripts, logs, submitted jobs, job states, locks
  features/<dataset>/{trainval,test}.h5
  probes/<dataset>/<probe>/seed_<n>.{json,npz}  result, and the predictions for its test images
  milestones/epoch-0010/{features,probes}/…     the same two folders, for the checkpoint after 10 epochs
  report/index.html  report/*.csv               (docs/report.md)
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from trex.config.schema import DATASET, NAME, Config
from trex.errors import UserError

_MILESTONES = "milestones"
_STATE = ".state.json"


@dataclass(frozen=True)
class RunDir:
    """Paths of one run. Creates no files."""

    root: Path
    #: None: features and probe results of the run's final encoder. Otherwise of its encoder after this many epochs; all
    #: other paths are the same.
    milestone: int | None = None

    def at(self, milestone: int | None) -> RunDir:
        """The same run, with the features and probe results of a milestone; None: of the final encoder."""
        return replace(self, milestone=milestone)

    @classmethod
    def of(cls, config: Config) -> RunDir:
        """The folder of a config's run, as an absolute path."""
        return cls((Path(config.runs) / config.name).absolute())

    @classmethod
    def below(cls, folder: Path) -> list[RunDir]:
        """The runs in `folder`, sorted by name, including folders that this user may not open."""
        found = (cls(path) for path in sorted(folder.glob("*")) if path.is_dir())
        return [run for run in found if os.access(run.config, os.F_OK) or run._is_closed]

    @property
    def _is_closed(self) -> bool:
        return re.fullmatch(NAME, self.name) is not None and not os.access(self.root, os.X_OK)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.root.name

    @property
    def config(self) -> Path:
        """The complete config, including all defaults."""
        return self.root / "config.yaml"

    @property
    def code(self) -> Path:
        """Copies of the code that the run's jobs execute, each named by its digest."""
        return self.root / "code"

    def origin_of_code(self, copy: str) -> Path:
        """What is known of the checkout that a copy of the code was made from."""
        return self.code / f"{copy}.json"

    @property
    def checkpoints(self) -> Path:
        """Full training states, one folder per checkpoint."""
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Training and validation metrics, one JSON object per line."""
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """The history of the run: attempts, interruptions and checkpoints, one JSON object per line."""
        return self.root / "events.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.root / "tensorboard"

    @property
    def jobs(self) -> Path:
        """Batch scripts, logs, submitted jobs, job states and locks. Only the owner can read it."""
        return self.root / "jobs"

    @property
    def submissions(self) -> Path:
        """The submitted jobs, one JSON object per job or array of jobs."""
        return self.jobs / "submitted.jsonl"

    @property
    def submitting_lock(self) -> Path:
        """Lock that a command holds while it submits jobs of this run."""
        return self.jobs / "submitting.lock"

    @property
    def cluster(self) -> Path:
        """The cluster file that the run was last submitted with."""
        return self.jobs / "cluster.yaml"

    @property
    def local_cluster(self) -> Path:
        """The cluster file that the run was last started with on this machine."""
        return self.local_jobs / "cluster.yaml"

    @property
    def milestones_log(self) -> Path:
        """What the training's requests to evaluate its milestones printed (jobs/milestones.py)."""
        return self.jobs / "milestones.log"

    @property
    def slurm_jobs(self) -> Path:
        """Batch scripts and logs of Slurm jobs."""
        return self.jobs / "slurm"

    @property
    def local_jobs(self) -> Path:
        """Logs of jobs on this machine."""
        return self.jobs / "local"

    def logs(self, job: str | None, rank: int) -> list[Path]:
        """The logs of one rank of `job`, or of all jobs if `job` is None. On Slurm, submitit names these files."""
        return list(self.jobs.glob(f"*/{job or '*'}_{rank}_log.out"))

    def local_log(self, job: str, rank: int) -> Path:
        """Log of one rank of a job on this machine."""
        return self.local_jobs / f"{job}_{rank}_log.out"

    def state(self, key: str) -> Path:
        """State of a stage's job, or of one task of its job array: `train`, `probe-dtd`, …"""
        return self.jobs / f"{key}{_STATE}"

    def recorded_keys(self) -> frozenset[str]:
        """The keys that have a state file."""
        return frozenset(name.removesuffix(_STATE) for name in _names(self.jobs) if name.endswith(_STATE))

    def state_for_shell(self, key: str) -> Path:
        """The same state for the batch script."""
        return self.jobs / f"{key}.state.txt"

    def lock(self, key: str) -> Path:
        """Lock of a stage, or of one task of its job array. A number is appended to its files (jobs/worker/lock.py)."""
        return self.jobs / f"{key}.lock"

    def rendezvous(self, key: str, job: str, restart: int) -> Path:
        """The address where the ranks of one start of a job connect."""
        return self.rendezvous_prefix(key).with_name(f"{key}-{job}-{restart}.json")

    def canceled(self, key: str, job: str, restart: int) -> Path:
        """Exists if rank 0 of that start ended with an error."""
        return self.rendezvous_prefix(key).with_name(f"{key}-{job}-{restart}.canceled.json")

    def rendezvous_prefix(self, key: str) -> Path:
        """The beginning of these two paths, to which the batch script appends job and restart."""
        return self.jobs / "rendezvous" / key

    @property
    def not_started_prefix(self) -> Path:
        """The path where processes note why they did not start, to which the batch script appends job and restart."""
        return self.jobs / "not-started"

    @property
    def report(self) -> Path:
        """The report's folder."""
        return self.root / "report"

    @property
    def report_page(self) -> Path:
        """The report's page."""
        return self.report / "index.html"

    def features(self, dataset: str, split: str) -> Path:
        """Feature file of one split (`trainval` or `test`) of a dataset."""
        return self._evaluation / "features" / dataset_folder(dataset) / f"{_plain(split)}.h5"

    def probes(self, dataset: str) -> Path:
        """Probe results of a dataset: one folder per kind of probe."""
        return self._evaluation / "probes" / dataset_folder(dataset)

    def datasets(self, what: Literal["features", "probes"]) -> frozenset[str]:
        """The folders of datasets that have features or probe results, by name (`dataset_folder`)."""
        return _names(self._evaluation / what)

    def probe_results(self) -> list[Path]:
        """The existing results of all probes."""
        return list(self._evaluation.glob("probes/*/*/seed_*.json"))

    @property
    def _evaluation(self) -> Path:
        return self.root if self.milestone is None else self.root / _MILESTONES / milestone_name(self.milestone)

    def evaluated_milestones(self) -> list[int]:
        """The epochs for which a folder with features or probe results exists, ascending."""
        found = (re.fullmatch(r"epoch-(\d{4,9})", path.name) for path in (self.root / _MILESTONES).glob("epoch-*"))
        return sorted(int(name[1]) for name in found if name)

    def probe(self, dataset: str, probe: str, seed: int) -> Path:
        """Result of one probe (`exact`, `published`, `exact-5shot`, `knn20`, …) with one seed."""
        return self.probes(dataset) / _plain(probe) / f"seed_{seed}.json"


def _names(folder: Path) -> frozenset[str]:
    """Names of what is in a folder; of nothing if there is no folder."""
    try:
        return frozenset(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def milestone_name(epoch: int) -> str:
    """Name of a milestone in paths and job names, from the number of finished epochs: `epoch-0010`."""
    return f"epoch-{epoch:04d}"


def dataset_folder(dataset: str) -> str:
    """Name of a dataset in paths and job names: `torchvision_CIFAR10` for `torchvision:CIFAR10`."""
    return _plain(dataset.replace(":", "_", 1) if re.fullmatch(DATASET, dataset) else dataset)


def _plain(part: str) -> str:
    """Returns `part` if it is a plain name, which cannot lead outside the run folder. Raises UserError if not."""
    if not re.fullmatch(NAME, part):
        raise UserError(f"{part!r} is not a name: expected at most 64 letters, digits, '.', '_' or '-'")
    return part
