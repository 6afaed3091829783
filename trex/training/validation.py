"""Accuracy on the validation images. They are divided among the ranks, and each image is counted once."""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from trex.datasets.split import Split
from trex.distributed import Ranks
from trex.errors import Interrupted, UserError
from trex.images.decode import ImageFault
from trex.images.normalize import normalize
from trex.images.preprocessing import Geometry
from trex.interruption import StopRequest
from trex.loading.evaluation import evaluation_batches
from trex.loading.workers import Wait, take
from trex.training.knn import EncoderOutputs, leave_one_out
from trex.training.network import Network

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Validation:
    """Top-1 and top-5 accuracy in %, mean cross-entropy (`loss`), and leave-one-out k-NN accuracy in % (`knn`)."""

    top1: float
    top5: float
    loss: float
    knn: float | None = None  #: None if it was not asked for, or if there is only one image
    skipped: int = 0  #: broken images that are left out


def validate(
    model: Network, split: Split, ranks: Ranks, stop: StopRequest, *,
    geometry: Geometry, batch_size: int, workers: int, amp: torch.dtype | None, knn: int = 0, skip_broken: bool = False,
) -> Validation:  # fmt: skip
    """Classify every image of `split` once, with the method's `classify`. Every rank must call it.

    Args:
        model: the network, in any mode. It is in train mode afterwards.
        split: the images with their labels.
        ranks: the ranks that divide the images among them.
        stop: true once a signal has asked to stop; checked after every batch. All ranks stop together.
        geometry: the resize and the crop of the images.
        batch_size: images per batch and rank.
        workers: loader processes of this rank.
        amp: dtype for autocast, or None for float32.
        knn: neighbors of the k-NN accuracy (trex/training/knn.py); 0: it is not measured.
        skip_broken: whether to leave out broken images, with a warning each.

    Raises:
        ImageFault: if an image cannot be read. With `skip_broken`, only if its file is missing or cannot be read.
        TrexError: if a worker process has ended or does not go on. Other ranks get these errors with the rank's name.
        UserError: if all images are broken.
        Interrupted: if any rank was asked to stop. There is no partial result.
    """
    mine = np.arange(ranks.rank, len(split), ranks.world)
    rounds = math.ceil(math.ceil(len(split) / ranks.world) / batch_size)
    on_broken = _log_broken if skip_broken else None
    batches = iter(
        evaluation_batches(
            split, mine, geometry, batch_size, workers, on_broken, Wait(stop, lambda: ranks.limit.seconds)
        )
    )
    present = torch.zeros(len(split), dtype=torch.float64, device=ranks.device)  # 1 for images that could be read
    sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)  # top-1 hits, top-5 hits, loss, images
    neighbors = None
    outputs = EncoderOutputs(model.encoder) if knn and len(split) > 1 else None
    model.eval()
    try:
        with outputs or contextlib.nullcontext():
            for _ in range(rounds):
                batch, problem = take(batches)
                if batch is not None and len(batch[0]):
                    sums += _score(model, batch[0], batch[1], ranks.device, amp)
                    present[batch[2]] = 1
                if ranks.agree(int(bool(stop)), problem):
                    raise Interrupted("asked to stop during validation")
        read = ranks.sum_(present.clone()) > 0
        if outputs is not None and int(read.sum()) > 1:
            places = torch.as_tensor(mine, device=ranks.device)
            rows = torch.zeros(len(mine), model.encoder.feature_dim, device=ranks.device)
            rows[present[places] > 0] = outputs.take(model.encoder.feature_dim, ranks.device)
            labels = torch.as_tensor(split.labels, dtype=torch.int64, device=ranks.device)
            neighbors = leave_one_out(rows, labels, read, knn, model, ranks, stop)
    finally:
        model.train()
    top1, top5, loss, count = ranks.sum_(sums).tolist()
    assert count == len(split) or skip_broken, f"validation saw {count} images of {len(split)}"
    if not count:
        raise UserError(f"{split.dataset}: no image of the split {split.split_name} can be read")
    return Validation(100 * top1 / count, 100 * top5 / count, loss / count, neighbors, len(split) - int(count))


def _log_broken(fault: ImageFault) -> None:
    log.warning("validation: broken image skipped: %s", fault.brief)


@torch.no_grad()
def _score(
    model: Network, images: torch.Tensor, labels: torch.Tensor, device: torch.device, amp: torch.dtype | None
) -> torch.Tensor:
    images = normalize(images.to(device, non_blocking=True))
    labels = labels.to(device, non_blocking=True)
    with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
        logits = model.classify(images)
    logits = logits.float()
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([ranked[:, 0].sum(), ranked.sum(), loss, torch.full_like(loss, len(labels))]).double()
