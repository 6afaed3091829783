"""Describable Textures Dataset."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from trex.datasets.layout import find_base, labels_by_name, read_names
from trex.datasets.record import Archive, Counts, Dataset, Listing, SplitListing


def read_dtd(partition: int, folder: Path) -> Listing:
    """Reads one of the ten splits: `train1` and `val1` are trainval, `test1` is test, for split 1.

    Labels follow the sorted class names.
    """
    base = find_base(folder, (f"labels/train{partition}.txt", "images"), ("dtd", "dtd/dtd"))
    names = {split: read_names(base / "labels" / f"{split}{partition}.txt") for split in ("train", "val", "test")}
    classes = sorted({name.partition("/")[0] for listed in names.values() for name in listed})
    trainval, test = names["train"] + names["val"], names["test"]
    label_of = labels_by_name(classes, base)

    def labeled(listed: list[str]) -> SplitListing:
        return SplitListing(
            [f"images/{name}" for name in listed], [label_of[name.partition("/")[0]] for name in listed]
        )

    return Listing(tuple(classes), labeled(trainval), labeled(test), folder=base, from_list_file=True)


#: `dtd` is the first of the ten splits, as in the published table; `dtd_2` … `dtd_10` are the others.
DATASETS = tuple(
    Dataset(
        "dtd" if partition == 1 else f"dtd_{partition}",
        partial(read_dtd, partition),
        Counts(classes=47, trainval=3760, test=1880),
        archives=(
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                "fff73e5086ae6bdbea199a49dfb8a4c1",
            ),
        ),
        folder="dtd",
    )
    for partition in range(1, 11)
)
