"""How long the `exact` probes take, from the sizes alone. `trex check` uses it, so it must not import torch or numpy.

An evaluation of the loss and its gradient takes two products of N x D x K numbers, and passes over the N x K logits and
the N x D features. The counts of evaluations and the speeds are those of `python -m tools.bench.probes --large`
(docs/probes.md). Features that are easier or harder to classify take up to twice as few or as many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trex.probing.memory import Place, Size, is_small, sample_images, solver_memory

Number = Literal["bfloat16", "float32", "float64"]

#: Floating-point operations per second of one core with AVX-512, for many classes. bfloat16 is between what AVX-512
#: BF16 (190e9) and AMX (450e9 and more) reach.
SPEED: dict[Number, float] = {"bfloat16": 230e9, "float32": 97e9, "float64": 50e9}
#: The same for the GPU that the estimate assumes, an A100, at half of its peak.
GPU_SPEED: dict[Number, float] = {"bfloat16": 150e9 * 1000, "float32": 9.7e12, "float64": 4.8e12}
#: With this number of classes, products have half of the full speed.
HALF_SPEED = 12
#: Seconds per logit and evaluation, and per number of a feature that is read from each place, on one core.
PER_LOGIT = 5e-9
#: The same per logit of the sample of a line search, which has a few passes.
PER_SAMPLE_LOGIT = 5e-8
PER_NUMBER: dict[Place, float] = {"rotated": 0.0, "half": 0.7e-9, "file": 2.5e-9}
#: Operations of the eigenbasis, times the cube of the number of dimensions.
EIGENBASIS = 10
#: How much faster a GPU is in these passes.
GPU_PASSES = 500

#: Evaluations of a search with four fifths of the images, in its type and in float32.
SEARCH, SEARCH_FLOAT32 = 58.0, 3.0
#: Evaluations of a final fit, in the type of the search (those of the approach count as a quarter) and in float32. One
#: more takes place in float64.
FINAL, FINAL_FLOAT32 = 50.0, 3.0


@dataclass(frozen=True)
class Cost:
    """The estimated time of the `exact` probes of one dataset."""

    seed: float  #: hours per seed without the final fit
    fit: float  #: hours of the final fit, which seeds that choose the same C share

    def hours(self, seeds: int) -> float:
        """The hours of this number of seeds, if all choose the same C."""
        return seeds * self.seed + self.fit


def exact_cost(size: Size, limit: float, bfloat16: bool = True, gpu: bool = False) -> Cost:
    """The estimate for one core, or one GPU.

    Args:
        size: of the dataset.
        limit: `probe.memory_gb` in bytes.
        bfloat16: whether the processor has instructions for it.
        gpu: whether a GPU with enough memory computes.

    Raises:
        UserError: if the limit is too small.
    """
    place: Place = "rotated" if gpu else solver_memory(size, limit).rows
    fast: Number = "bfloat16" if (bfloat16 or gpu) and place != "file" else "float32"
    if is_small(size.trainval, size.dim, size.classes):
        fast = "float64"
    plain: Number = "float64" if fast == "float64" else "float32"
    basis = (2 * size.trainval + EIGENBASIS * size.dim) * size.dim**2 / (GPU_SPEED if gpu else SPEED)[plain]
    rough, precise = _evaluation(size, fast, place, gpu), _evaluation(size, "float32", place, gpu)
    search = 0.8 * (SEARCH * rough + SEARCH_FLOAT32 * precise)
    final = FINAL * rough + FINAL_FLOAT32 * precise + _evaluation(size, "float64", "file", gpu)
    return Cost(search / 3600, (basis + final) / 3600)


def _evaluation(size: Size, number: Number, place: Place, gpu: bool) -> float:
    """Seconds of one evaluation of all of trainval."""
    logits, numbers = size.trainval * size.classes, size.trainval * size.dim
    speed = (GPU_SPEED if gpu else SPEED)[number] * size.classes / (size.classes + HALF_SPEED)
    passes = PER_LOGIT * logits + PER_NUMBER[place] * numbers
    passes += PER_SAMPLE_LOGIT * min(sample_images(size.classes), size.trainval) * size.classes
    if place != "rotated" and not gpu:  # the weights, their step and the gradient are rotated in float32
        passes += 6 * size.classes * size.dim**2 / SPEED["float32"]
    return 4 * numbers * size.classes / speed + passes / (GPU_PASSES if gpu else 1)
