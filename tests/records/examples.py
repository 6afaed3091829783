"""Examples of every record, with values in all fields."""

from __future__ import annotations

from dataclasses import replace

from trex.records.base import Record
from trex.records.code import Code
from trex.records.environment import Environment, Node
from trex.records.events import (
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    IntervalChosen,
    TrainingResumed,
    TrainingStarted,
)
from trex.records.feature_provenance import ArrayPlace, FeatureIndex, FeatureProvenance
from trex.records.job_state import JobState, State
from trex.records.lock_owner import LockOwner
from trex.records.manifest import Manifest
from trex.records.metrics import MetricsLine
from trex.records.probe_result import ImageCounts, ProbeProvenance, ProbeResult, Scores, Search, Trial
from trex.records.rendezvous import Canceled, Rendezvous
from trex.records.submission import Submission

STATE = JobState(State.FAILED, 2, "no image Šárka/1.jpg", "SIGTERM", "12_3", 4, "epoch-0003-step-00000000", 2, 9.5)
NODES = (Node("n1", 4, {"X": 4}, "EPYC", 32), Node("n2", 4, {"X": 4}, "EPYC", 32))
CODE = Code("c0de", "0123456789abcdef" * 2, modified=True)
ENVIRONMENT = Environment(
    1.5,
    "train",
    ("train",),
    "12",
    0,
    NODES,
    "3.12.1",
    "Linux",
    {"torch": "2.14.1", "timm": None},
    {"CUDA": "13.0"},
    CODE,
)
EVENTS = (
    AttemptStarted(1.0, "train", ("train",), "12", 0, "nothing", nodes=2, node="n1", world=8),
    AttemptEnded(2.0, "probe", ("probe-dtd", "probe-pets"), "12", 0, 75, "saved", "SIGUSR2", "3 files", 1.5),
    TrainingStarted(3.0, 0, 0, {"file": "/w.pth", "sha256": "0" * 64, "with": "all"}),
    TrainingResumed(4.0, 10, 1, None),
    CheckpointSaved(5.0, 20, "stop", 0.25, seconds_signal_to_saved=0.5),
    IntervalChosen(6.0, 20, 720.0, save_seconds=1.8, failure_hours=40.0, failures=2, hours=80.0),
    ENVIRONMENT,
)
METRICS = (
    MetricsLine("train", 10, 0.5, {"loss": 1.25, "top1": 50.0, "lr": 0.1, "images_per_second": 12.5}, 1.0),
    MetricsLine("validation", 20, 1.0, {"loss": 1.0, "top1": 60.0, "top5": 90.0}, 2.0),
)
SUBMISSION = Submission(
    1.0,
    "slurm",
    "extract",
    {"extract-dtd": "12_0", "extract-pets": "12_1"},
    "one",
    "trex:a:b",
    "/a.sh",
    "c0de",
    "afterok:11",
)
PROBE_RESULT = ProbeResult(
    "a", "pets", "exact-5shot", 3, True, ("cat", "dog"), ImageCounts(8, 2, 3),
    Search({"C": 0.1}, 0.5, "low", (Trial({"C": 0.1}, 0.5, 1.5, 0.7, 1e-4), Trial({"C": 1.0}, 0.25, 1.5))),
    Scores(0.5, 0.75, 0.5, 0.625, 0.125, 1, (0.5, None), ((0, 0, 1), (0, 1, 1))), "4" * 64, 3.25,
    ProbeProvenance(
        "0" * 64, "1" * 64, "3" * 64, "2" * 64, "epoch-0003", "resize 224", "float32", False, "exact solver 2"
    ),
    {"torch": "2.14"},
)  # fmt: skip
MULTI_LABEL_RESULT = replace(
    PROBE_RESULT, dataset="voc2007", probe="exact",
    test=Scores(None, None, None, None, None, 1, (0.75, None), (), map11=0.75, map_area=0.625),
)  # fmt: skip
FEATURES = FeatureProvenance(
    "a", "pets", "trainval", "0" * 64, "1" * 64, "epoch-0003", "resize 224", "float16", True, {"h5py": "3.16"}
)
FEATURE_INDEX = FeatureIndex(
    FEATURES, "5" * 64, {"features": ArrayPlace("<f2", (3, 4), 4096), "labels": ArrayPlace("<i8", (3,), 4120)}
)
RECORDS: tuple[Record, ...] = (
    STATE,
    *EVENTS,
    *METRICS,
    SUBMISSION,
    CODE,
    LockOwner("12", 1, "one", backend="slurm", host="n1", pid=77, process_start=12345, since=1.0, id="ab12"),
    Rendezvous(("10.0.0.1", "127.0.0.1"), 29500, "token", "n1"),
    Canceled("no such image"),
    PROBE_RESULT,
    MULTI_LABEL_RESULT,
    FEATURE_INDEX,
    Manifest(20, 1000, "0123456789abcdef" * 4, milestone=True, finished=False),
)
