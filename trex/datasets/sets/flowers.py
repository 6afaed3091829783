"""Oxford Flowers 102."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trex.datasets.layout import find_base, read_mat, whole_numbers
from trex.datasets.record import Archive, Counts, Dataset, Listing, SplitListing
from trex.errors import UserError

if TYPE_CHECKING:
    import numpy as np


def read_flowers(folder: Path) -> Listing:
    """Reads `imagelabels.mat` and `setid.mat`: `trnid` and `valid` are trainval, `tstid` is test."""
    from torchvision.datasets import Flowers102

    base = find_base(folder, ("imagelabels.mat", "setid.mat"), ("flowers-102", "flowers"))
    images = next((name for name in ("jpg", "images", "102flowers/jpg") if (base / name).is_dir()), None)
    if images is None:
        raise UserError(f"{base}: expected the images of 102flowers.tgz in {base / 'jpg'}/")
    (labels,) = read_mat(base / "imagelabels.mat", "labels")
    train, validation, test = read_mat(base / "setid.mat", "trnid", "valid", "tstid")
    classes = tuple(Flowers102.classes)
    labels = whole_numbers(labels, base / "imagelabels.mat", "labels", len(classes)) - 1

    def split(field: str, entries: np.ndarray) -> SplitListing:
        numbers = whole_numbers(entries, base / "setid.mat", field, len(labels))
        names = [f"{images}/image_{number:05d}.jpg" for number in numbers]
        return SplitListing(names, [int(labels[n - 1]) for n in numbers])

    parts = (split("trnid", train), split("valid", validation))
    trainval = SplitListing([name for part in parts for name in part.names], [n for part in parts for n in part.labels])
    return Listing(classes, trainval, split("tstid", test), folder=base, from_list_file=True)


DATASETS = (
    Dataset(
        "flowers",
        read_flowers,
        Counts(classes=102, trainval=2040, test=6149),
        archives=(
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz", "52808999861908f626f3c1f4e79d11fa"
            ),
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"
            ),
            Archive("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c"),
        ),
    ),
)
