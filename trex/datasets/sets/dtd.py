"""Describable Textures Dataset."""

from __future__ import annotations

from pathlib import Path

from trex.datasets.layout import find_base, labels_by_name, read_names
from trex.datasets.record import Archive, Counts, Dataset, Listing, SplitListing


def read_dtd(folder: Path) -> Listing:
    """Reads the first split of Describable Textures: `train1` and `val1` are trainval, `test1` is test.

    Labels follow the sorted class names.
    """
    base = find_base(folder, ("labels/train1.txt", "images"), ("dtd", "dtd/dtd"))
    names = {split: read_names(base / "labels" / f"{split}1.txt") for split in ("train", "val", "test")}
    classes = sorted({name.partition("/")[0] for listed in names.values() for name in listed})
    trainval, test = names["train"] + names["val"], names["test"]
    label_of = labels_by_name(classes, base)

    def labeled(listed: list[str]) -> SplitListing:
        return SplitListing(
            [f"images/{name}" for name in listed], [label_of[name.partition("/")[0]] for name in listed]
        )

    return Listing(tuple(classes), labeled(trainval), labeled(test), folder=base, from_list_file=True)


DATASETS = (
    Dataset(
        "dtd",
        read_dtd,
        Counts(classes=47, trainval=3760, test=1880),
        archives=(
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                "fff73e5086ae6bdbea199a49dfb8a4c1",
            ),
        ),
    ),
)
