"""The result of one probe: one kind, one dataset, one seed (probes/<dataset>/<kind>/seed_<n>.json, docs/probes.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from trex.records.base import Count, Record
from trex.records.typed import Bounds, Mismatch, decode_dataclass, encode

#: A fraction: of images that were classified correctly.
Share = Annotated[float, Bounds(0, 1)]
#: A hyper-parameter: all are positive numbers, so that charts can draw them on a log scale.
Positive = Annotated[float, Bounds(1e-300, 1e300)]
Seconds = Annotated[float, Bounds(0, 1e11)]


@dataclass(frozen=True)
class ProbeProvenance:
    """The features a result was made from, and how its kind treats them. A result with another provenance is not the
    one that is wanted, and is computed again."""

    trainval_digest: str  #: SHA-256 of the features of trainval
    test_digest: str  #: and of test
    encoder_digest: str  #: SHA-256 of the encoder's weights
    weights: str  #: where the weights came from, for people
    dtype: str  #: of the stored features
    normalized: bool  #: whether each feature was L2-normalized
    fitted_by: str  #: the kind's own words for how it fits; another version of a solver has other words

    @property
    def key(self) -> str:
        """One line of text that is equal for equal provenances."""
        return json.dumps(encode(self), sort_keys=True)


@dataclass(frozen=True)
class Trial:
    """One setting of the hyper-parameters that a search has tried."""

    values: dict[str, Positive]  #: such as {"C": 0.1}
    validation_top1: Share
    seconds: Seconds
    train_loss: float | None = None  #: mean cross-entropy, nats; of the exact solver
    gap: float | None = None  #: certified bound of the relative distance to the optimum; of the exact solver


@dataclass(frozen=True)
class Search:
    """The chosen hyper-parameters, and everything that was tried."""

    best: dict[str, Positive]
    validation_top1: Share | None = None  #: with the best; None where nothing was tried
    edge: Literal["low", "high"] | None = None  #: where the choice lies at an end of the range
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class ImageCounts:
    """Images that a probe was trained, chosen and tested by."""

    train: Count
    validation: Count  #: 0 where none are set apart: k-NN, and few-shot probes that are cross-validated
    test: Count


@dataclass(frozen=True)
class Scores:
    """How a probe classifies the test images."""

    top1: Share
    mean_per_class: Share  #: mean accuracy of the classes that have test images
    classes_without_test_images: Count
    per_class: tuple[Share | None, ...]  #: accuracy of each class; None without test images
    confusion: tuple[tuple[int, int, int], ...]  #: (true class, predicted class, test images); pairs that occur


@dataclass(frozen=True)
class ProbeResult(Record):
    """Everything that is known of one probe."""

    FORMAT: ClassVar[int] = 2

    run: str
    dataset: str
    probe: str  #: name of the kind, such as exact-5shot
    seed: Count
    comparable: bool  #: False where the dataset's counts are not the official ones
    classes: tuple[str, ...]
    counts: ImageCounts
    search: Search
    test: Scores
    seconds: Seconds
    provenance: ProbeProvenance
    versions: dict[str, str]  #: of libraries

    def __post_init__(self) -> None:
        """Raises ValueError if classes, accuracies and confusion do not fit each other."""
        count, accuracies = len(self.classes), self.test.per_class
        if len(accuracies) != count:
            raise ValueError(f"test.per_class has {len(accuracies)} accuracies for {count} classes")
        for true, predicted, images in self.test.confusion:
            if not (0 <= true < count and 0 <= predicted < count and images > 0):
                raise ValueError(f"test.confusion has [{true}, {predicted}, {images}] for {count} classes")
            if accuracies[true] is None:
                raise ValueError(f"test.confusion has images of class {true}, test.per_class has no accuracy for it")


def is_made_from(path: Path, provenance: ProbeProvenance) -> bool:
    """Whether `path` holds a probe result with just this provenance.

    Only format and provenance are checked, which is quick where a confusion matrix has many thousand pairs: submitting
    asks this of every result of a run.
    """
    try:
        value = json.loads(path.read_bytes())
        return (
            value["format"] == ProbeResult.FORMAT
            and decode_dataclass(ProbeProvenance, value["provenance"]) == provenance
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError, Mismatch):
        return False
