"""Leave-one-out k-NN accuracy of the encoder's features of the validation images, as a metric while training.

Each validation image is classified by the other validation images: the k nearest by cosine similarity vote for their
class with weight exp(similarity / 0.07) (Wu et al., arXiv 1805.01978, section 3.4). The features come from the forward
pass that the validation does anyway, so the metric costs one product of the features with themselves.
"""

from __future__ import annotations

import math
from types import TracebackType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trex.distributed import Ranks
from trex.errors import Interrupted
from trex.interruption import StopRequest
from trex.training.network import Network

TEMPERATURE = 0.07
_QUERIES = 512  #: images per product


class EncoderOutputs:
    """Keeps the L2-normalized outputs of the encoder during a `with` block, float32 on its device."""

    def __init__(self, encoder: nn.Module) -> None:
        self._encoder = encoder
        self._rows: list[Tensor] = []

    def __enter__(self) -> EncoderOutputs:
        self._hook = self._encoder.register_forward_hook(self._keep)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hook.remove()

    def _keep(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._rows.append(F.normalize(output.detach().float(), dim=1))

    def take(self, dim: int, device: torch.device) -> Tensor:
        """Return the outputs in the order of the calls, (n, dim), and forget them; (0, dim) if there was no call."""
        rows, self._rows = self._rows, []
        return torch.cat([torch.empty(0, dim, device=device), *rows])


def leave_one_out(
    mine: Tensor, labels: Tensor, read: Tensor, k: int, model: Network, ranks: Ranks, stop: StopRequest
) -> float:
    """Return the leave-one-out accuracy in %, the same on every rank and for any number of ranks up to rounding.

    Every rank must call it. Each rank holds all features, for a moment twice: 8 * n * D bytes.

    Args:
        mine: (n_mine, D) float32, normalized features of the images rank, rank + world, rank + 2 * world, …
        labels: (n,) int64 on the device of `mine`, the classes of all images.
        read: (n,) bool on that device, whether an image could be read. At least two could; the rows of the others are
            any numbers, and these images neither vote nor count.
        k: neighbors that vote, at least 1; all others that could be read if there are fewer.
        model: the network, for its `gather_rows`.
        ranks: the ranks that divide the images among them.
        stop: true once a signal has asked to stop; checked after every product. All ranks stop together.

    Raises:
        Interrupted: if any rank was asked to stop.
    """
    count, per_rank = len(labels), math.ceil(len(labels) / ranks.world)
    padded = F.pad(mine, (0, 0, 0, per_rank - len(mine))) if len(mine) < per_rank else mine
    # (world, per_rank, D) to the order of the dataset; the padding is at the end.
    bank = model.gather_rows(padded).view(ranks.world, per_rank, -1).transpose(0, 1).flatten(0, 1)[:count]
    places = torch.arange(ranks.rank, count, ranks.world, device=mine.device)
    hits = torch.zeros(1, dtype=torch.float64, device=mine.device)
    known = int(read.sum())
    for first in range(0, per_rank, _QUERIES):
        part = slice(first, first + _QUERIES)
        hits += _hits(mine[part], places[part], bank, labels, read, min(k, known - 1))
        if ranks.agree(int(bool(stop))):
            raise Interrupted("asked to stop during validation")
    return 100 * float(ranks.sum_(hits).item()) / known


def _hits(queries: Tensor, places: Tensor, bank: Tensor, labels: Tensor, read: Tensor, k: int) -> Tensor:
    """Count the images that the others classify correctly. `places` are the rows of the queries in `bank`."""
    similarity = queries @ bank.T
    similarity.scatter_(1, places[:, None], -torch.inf)  # an image does not vote for itself
    similarity[:, ~read] = -torch.inf
    nearest, neighbors = similarity.topk(k, dim=1)
    classes = labels[neighbors]
    weights = ((nearest - 1) / TEMPERATURE).exp()
    # The votes for the class of each neighbor: no array with one column per class, and no atomic additions, whose
    # order would differ from run to run on a GPU.
    votes = ((classes[:, :, None] == classes[:, None, :]) * weights[:, None, :]).sum(2)
    predicted = classes.gather(1, votes.argmax(1, keepdim=True))[:, 0]
    return ((predicted == labels[places]) & read[places]).sum()
