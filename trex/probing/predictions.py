"""What a probe predicts for each test image: computed from its logits, and stored next to its result.

The file of predictions (docs/probes.md) is a compressed `.npz` of plain arrays with one number per test image each. It
takes 3 to 5 bytes per image. The result holds its SHA-256, so that damage is found before anything is parsed.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trex.errors import UserError
from trex.files import atomic_path
from trex.stand_ins import read_file

#: Ranks from here on are stored as this number.
LAST_RANK = 255
#: The most bytes that the header of an array in a `.npz` file takes.
_HEADER = 256


@dataclass(frozen=True)
class Outcomes:
    """The predictions for n test images, as a probe computes them."""

    predicted: np.ndarray  #: (n,) int64, the class with the highest probability; of equal ones the first
    rank: np.ndarray  #: (n,) uint8, classes that precede the image's class: 0 if it is the predicted one
    log_probability: np.ndarray  #: (n,) float32, of the image's class, nats; -inf if its probability is 0
    confidence: np.ndarray  #: (n,) float32, the probability of the predicted class


@dataclass(frozen=True)
class Predictions:
    """The content of a file of predictions. The dtypes of `label` and `predicted` are the smallest possible."""

    label: np.ndarray  #: (n,) uint8, uint16 or uint32, the class of each test image
    predicted: np.ndarray  #: (n,) of the same dtype, the predicted class
    rank: np.ndarray  #: (n,) uint8, as in `Outcomes`
    log_probability: np.ndarray  #: (n,) float16, as in `Outcomes`


def outcomes(logits: Iterable[Tensor], labels: np.ndarray) -> Outcomes:
    """Reduce the logits of n images to what is kept of them. Memory holds one piece of logits at a time.

    Args:
        logits: (m, K) float tensors, the images in order. Their softmax is the probabilities; -inf is a probability
            of 0.
        labels: (n,) int64, the class of each image.

    The rank of a class of probability 0 is LAST_RANK, because no order is known among such classes.
    """
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    begin = 0
    for piece in logits:
        target = torch.from_numpy(np.ascontiguousarray(labels[begin : begin + len(piece)]))[:, None]
        begin += len(piece)
        own = piece.gather(1, target)
        top, predicted = piece.max(1, keepdim=True)
        before = torch.arange(piece.shape[1]) < target
        rank = ((piece > own) | ((piece == own) & before)).sum(1, keepdim=True).clamp_max_(LAST_RANK)
        rank[own == -torch.inf] = LAST_RANK
        total = piece.logsumexp(1, keepdim=True)
        parts.append((predicted, rank, own - total, (top - total).exp()))
    if begin != len(labels):
        raise ValueError(f"got the logits of {begin} images, expected {len(labels)}")
    columns = [torch.cat(column).flatten() for column in zip(*parts, strict=True)]
    dtypes = (torch.int64, torch.uint8, torch.float32, torch.float32)
    return Outcomes(*(column.to(dtype).numpy() for column, dtype in zip(columns, dtypes, strict=True)))


def write_predictions(path: Path, labels: np.ndarray, found: Outcomes, classes: int) -> str:
    """Write a file of predictions atomically. The same predictions give the same bytes.

    Args:
        path: the file.
        labels: (n,) int64.
        found: the predictions for these images.
        classes: number of classes.

    Returns:
        The SHA-256 of the file.
    """
    small = np.min_scalar_type(max(classes - 1, 0))
    lowest = float(np.finfo(np.float16).min)
    log_probability = np.where(np.isneginf(found.log_probability), -np.inf, found.log_probability.clip(lowest, 0))
    arrays = {
        "label": labels.astype(small),
        "predicted": found.predicted.astype(small),
        "rank": found.rank,
        "log_probability": log_probability.astype(np.float16),
    }
    return write_arrays(path, arrays)


def read_predictions(path: Path, digest: str, images: int, classes: int) -> Predictions:
    """Read a file of predictions.

    Args:
        path: the file.
        digest: its SHA-256, from the result.
        images: the number of test images.
        classes: the number of classes.

    Raises:
        UserError: if the file is missing, has another digest, or does not hold these arrays with values in their range.
    """
    small = np.min_scalar_type(max(classes - 1, 0))
    expected = {"label": small, "predicted": small, "rank": np.dtype(np.uint8), "log_probability": np.dtype(np.float16)}
    found = Predictions(**read_arrays(path, digest, expected, (images,)))
    if max(int(found.label.max(initial=0)), int(found.predicted.max(initial=0))) >= max(classes, 1):
        raise UserError(f"{path}: it has classes beyond the {classes} of the result")
    if not (found.log_probability <= 0).all():
        raise UserError(f"{path}: it has log-probabilities that are not in -inf … 0")
    return found


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Write a compressed `.npz` file atomically. The same arrays give the same bytes. Returns its SHA-256."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def read_arrays(
    path: Path, digest: str, expected: Mapping[str, np.dtype], shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Read a `.npz` file that holds exactly the arrays `expected`, all of this shape.

    Raises:
        UserError: if the file is missing, has another digest than `digest`, or holds anything else.
    """
    try:
        content = read_file(path)
        if hashlib.sha256(content).hexdigest() != digest:
            raise UserError(
                f"{path}: its SHA-256 is not the one in the result file: it is damaged or of another result"
            )
        return _arrays(content, expected, shape)
    except FileNotFoundError:
        raise UserError(f"{path}: this file of predictions does not exist") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise UserError(f"{path}: not a readable file of predictions ({error})") from error


def _arrays(content: bytes, expected: Mapping[str, np.dtype], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file. Raises ValueError unless each has the expected dtype and this shape."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # before numpy allocates what a header claims
        for entry in archive.infolist():
            if entry.file_size > _HEADER + 8 * math.prod(shape):
                raise ValueError(f"{entry.filename} has {entry.file_size} bytes for {shape[0]} images")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        if set(file.files) != set(expected):
            raise ValueError(f"found {', '.join(sorted(file.files))}, expected {', '.join(expected)}")
        arrays = {key: file[key] for key in expected}
    for key, dtype in expected.items():
        if arrays[key].dtype != dtype or arrays[key].shape != shape:
            raise ValueError(f"{key} is {arrays[key].dtype} {arrays[key].shape}, expected {dtype} {shape}")
    return arrays
