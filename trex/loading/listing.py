"""Lists the images of a dataset once for all ranks: rank 0 reads the folders and sends the lists to the others.

If each of many ranks listed a million files, the file system would have to answer all of them at the same time.
"""

from __future__ import annotations

import errno
import socket

from trex.config.schema import DataConfig
from trex.datasets.registry import load_splits
from trex.datasets.split import Split
from trex.datasets.splits_file import from_bytes, to_bytes
from trex.distributed import Ranks
from trex.errors import ExitCode, TrexError, UserError
from trex.images.decode import ImageFault
from trex.interruption import StopRequest
from trex.loading.staging import Splits, Staging, staged


def list_splits(name: str, data: DataConfig, ranks: Ranks, stop: StopRequest, staging: Staging | None = None) -> Splits:
    """Return both splits of the dataset `name`, the same on every rank. Every rank must call it.

    The other ranks wait as long as rank 0 needs. Datasets that read their images in their own way (CIFAR, torchvision)
    have few files, and every rank opens them. With `staging`, a pack is copied to each node first and read from there.

    Raises:
        TrexError: on every rank, if the dataset cannot be listed on rank 0 (`load_splits`), or if its first image
            cannot be read on another one.
        Interrupted: on every rank, if one was asked to stop; rank 0 then stops listing at once.
    """
    listing = _Listing(name, data, stop)
    answer = ranks.on_main(listing.make)
    ranks.check(stop)  # also after a listing that was left
    if answer["problem"] is not None:
        raise listing.problem or _problem_of(*answer["problem"])
    if answer["sent"]:
        content = ranks.broadcast_bytes(to_bytes(listing.splits) if ranks.world > 1 and ranks.is_main else b"")
        splits = listing.splits if ranks.is_main else from_bytes(content)
    else:
        splits = listing.splits or load_splits(name, data)
    if staging is not None:
        splits = staged(splits, staging, ranks, stop)
    _require_readable(splits["trainval"], ranks)
    return splits


class _Listing:
    """What rank 0 lists."""

    def __init__(self, name: str, data: DataConfig, stop: StopRequest) -> None:
        self._name, self._data, self._stop = name, data, stop
        self.splits: Splits = {}
        self.problem: TrexError | None = None

    def make(self) -> dict[str, object]:
        """List the dataset. Returns what the other ranks need to know before they get the lists."""
        try:
            with self._stop.leaves():
                self.splits = load_splits(self._name, self._data)
        except TrexError as error:
            self.problem = error
        except OSError as error:
            kind = TrexError if error.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT) else UserError
            self.problem = kind(f"dataset {self._name!r}: {error.filename or ''}: {error.strerror}")
        sent = all(split.images is None and split.folder is not None for split in self.splits.values())
        problem = None if self.problem is None else [int(self.problem.exit_code), str(self.problem)]
        return {"sent": sent, "problem": problem}


def _problem_of(code: int, message: str) -> TrexError:
    return (UserError if code == ExitCode.USER_ERROR else TrexError)(message)


def _require_readable(split: Split, ranks: Ranks) -> None:
    """Raise UserError on every rank if one cannot read the first image, which rank 0 has listed."""
    problem = ""
    if not ranks.is_main and split.images is None:
        try:
            split.content(0)
        except ImageFault as fault:
            problem = "" if fault.broken else f"rank {ranks.rank} on {socket.gethostname()}: {fault}"
    if found := next(filter(None, ranks.gather_texts(problem)), ""):
        raise UserError(
            f"{found}. Rank 0 has listed it, so the data is not the same on all nodes: put it where all of them can "
            f"read it (data.root)"
        )
