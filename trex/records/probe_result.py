"""The result of one probe, for one kind, dataset and seed (probes/<dataset>/<kind>/seed_<n>.json, docs/probes.md).

What the probe predicts for each test image is in a second file, seed_<n>.npz (trex/probing/predictions.py).
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from trex.files import sha256
from trex.records.base import Count, Record
from trex.records.typed import Bounds, Mismatch, decode_dataclass, encode
from trex.stand_ins import read_file, require_file

#: A fraction of images that were classified correctly, or an average precision.
Share = Annotated[float, Bounds(0, 1)]
#: A hyperparameter. All are positive, so that charts can show them on a log scale.
Positive = Annotated[float, Bounds(1e-300, 1e300)]
Seconds = Annotated[float, Bounds(0, 1e11)]
NotNegative = Annotated[float, Bounds(0, 1e300)]
_BYTES_CHECKED = 64  #: at the start and at the end of a result, by `is_result`


@dataclass(frozen=True)
class ProbeProvenance:
    """The features that a result was computed from, and how its kind treats them.

    A result with another provenance than the expected one is computed again.
    """

    trainval_digest: str  #: SHA-256 of the features of trainval
    test_digest: str  #: SHA-256 of the features of test
    test_images: str  #: SHA-256 of the names, labels and classes of the test images
    encoder_digest: str  #: SHA-256 of the encoder's weights
    weights: str  #: where the weights came from, in words
    transform: str  #: preprocessing of the images and the encoder, if any, in words
    dtype: str  #: of the stored features
    normalized: bool  #: whether each feature was L2-normalized
    fitted_by: str  #: the kind's description of how it fits; every version of a solver has another description

    @property
    def key(self) -> str:
        """One line of text. Two provenances are equal if and only if these lines are equal."""
        return json.dumps(encode(self), sort_keys=True)


@dataclass(frozen=True)
class Trial:
    """One combination of hyperparameters that a search tried."""

    values: dict[str, Positive]  #: such as {"C": 0.1}
    validation_score: Share  #: accuracy on the validation images; `map11` in a multi-label dataset
    seconds: Seconds
    train_loss: float | None = None  #: mean cross-entropy in nats; exact solver only
    gap: float | None = None  #: certified bound of the relative distance to the optimum; exact solver only
    validation_loss: float | None = None  #: mean cross-entropy of the validation images in nats; exact solver only


@dataclass(frozen=True)
class Search:
    """The chosen hyperparameters, and all that were tried."""

    best: dict[str, Positive]
    validation_score: Share | None = None  #: with the best hyperparameters; None if there was no search
    edge: Literal["low", "high"] | None = None  #: the end of the range that the choice is at; None if at neither
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class ImageCounts:
    """Numbers of images that a probe was trained on, chosen by and tested on."""

    train: Count
    validation: Count  #: 0 if none are held out: for k-NN, and for few-shot probes that are cross-validated
    test: Count
    classes_without_training_images: Count = 0  #: these are never predicted: their accuracy is 0


@dataclass(frozen=True)
class SkippedImages:
    """The broken images that the features lack (`data.broken_images=skip`)."""

    trainval: Count = 0
    test: Count = 0
    digest: str = (
        ""  #: SHA-256 of the names in each split; empty if there are none. Equal digests mean the same images.
    )

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.trainval or self.test)


@dataclass(frozen=True)
class Scores:
    """The scores of a probe on the test images. A score that has no meaning for them is None.

    In a multi-label dataset these are the mean average precisions (trex/probing/average_precision.py) and those of the
    classes; in all others, the accuracies, likelihood and calibration.
    """

    top1: Share | None
    top5: Share | None  #: None with five classes or fewer
    mean_per_class: Share | None  #: mean of the accuracies of the classes that have test images
    nll: NotNegative | None  #: mean negative log-likelihood, nats; None if an image's class has probability 0
    ece: Share | None  #: expected calibration error over 15 bins of equal width (trex/probing/scores.py)
    classes_without_test_images: Count
    #: accuracy, or average precision over 11 points, of each class; None for a class without test images
    per_class: tuple[Share | None, ...]
    #: (true class, predicted class, test images), without zero entries; empty in a multi-label dataset
    confusion: tuple[tuple[int, int, int], ...]
    map11: Share | None = None  #: mean over the classes of the average precision over 11 points, as in VOC 2007
    map_area: Share | None = None  #: mean over the classes of the area under the curve of precision against recall

    @property
    def multi_label(self) -> bool:
        """Whether a test image may have several classes."""
        return self.map11 is not None

    @property
    def main(self) -> float:
        """The score that tables show first: `top1`, or `map11` in a multi-label dataset."""
        found = self.top1 if self.map11 is None else self.map11
        assert found is not None  # ProbeResult checks it
        return found


@dataclass(frozen=True)
class ProbeResult(Record):
    """The complete result of one probe."""

    FORMAT: ClassVar[int] = 4

    run: str
    dataset: str
    probe: str  #: name of the kind, such as exact-5shot
    seed: Count
    comparable: bool  #: False if the dataset's counts are not the official ones
    classes: tuple[str, ...]
    counts: ImageCounts
    search: Search
    test: Scores
    predictions: str  #: SHA-256 of the file of predictions
    seconds: Seconds
    provenance: ProbeProvenance
    versions: dict[str, str]  #: of libraries
    skipped: SkippedImages = SkippedImages()

    def __post_init__(self) -> None:
        """Raises ValueError if scores, classes, accuracies and confusion matrix are inconsistent."""
        one_class = {name: getattr(self.test, name) for name in ("top1", "mean_per_class", "ece")}
        several = {name: getattr(self.test, name) for name in ("map11", "map_area")}
        absent, present = (one_class, several) if self.test.multi_label else (several, one_class)
        if any(absent.values()) or None in present.values() or (self.test.multi_label and self.test.confusion):
            raise ValueError(
                f"test: expected either {', '.join(one_class)} or {', '.join(several)} without a confusion"
            )
        count, accuracies = len(self.classes), self.test.per_class
        if len(accuracies) != count:
            raise ValueError(f"test.per_class has {len(accuracies)} accuracies for {count} classes")
        for true, predicted, images in self.test.confusion:
            if not (0 <= true < count and 0 <= predicted < count and images > 0):
                raise ValueError(f"test.confusion has [{true}, {predicted}, {images}] for {count} classes")
            if accuracies[true] is None:
                raise ValueError(f"test.confusion has images of class {true}, test.per_class has no accuracy for it")


def predictions_file(result: Path) -> Path:
    """The file of predictions that belongs to the result file `result`."""
    return result.with_suffix(".npz")


def weights_of(path: Path) -> str | None:
    """Where the weights came from, by the provenance of the result in `path`; None if it cannot be read.

    Like `is_made_from`, this reads only format number and provenance.
    """
    try:
        value = json.loads(read_file(path))
        made_by = decode_dataclass(ProbeProvenance, value["provenance"])
        return made_by.weights if value["format"] == ProbeResult.FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, Mismatch):
        return None


def is_result(path: Path) -> bool:
    """Whether the file `path` starts and ends as a probe result of this format, and its file of predictions exists.

    Only a few bytes are read, because `trex status` checks every result of all runs. So this detects files that are
    empty, cut off or of another format, but not every damage: `is_made_from` parses the file.
    """
    try:
        require_file(path)
        with path.open("rb") as file:
            start = file.read(_BYTES_CHECKED)
            file.seek(-min(_BYTES_CHECKED, file.seek(0, os.SEEK_END)), os.SEEK_END)
            end = file.read()
    except OSError:
        return False
    starts = re.match(rb'\s*\{\s*"format"\s*:\s*%d\s*,' % ProbeResult.FORMAT, start) is not None
    return starts and end.rstrip().endswith(b"}") and predictions_file(path).exists()


def is_made_from(path: Path, provenance: ProbeProvenance) -> bool:
    """Whether the file `path` holds a probe result with this provenance, and its file of predictions is intact.

    Only format number, provenance and the predictions' digest are checked. This is fast even if the confusion matrix
    is large, which matters because submitting checks every result of a run.
    """
    try:
        value = json.loads(read_file(path))
        return (
            value["format"] == ProbeResult.FORMAT
            and decode_dataclass(ProbeProvenance, value["provenance"]) == provenance
            and value["predictions"] == sha256(predictions_file(path))
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError, Mismatch):
        return False
