"""Food-101."""

from __future__ import annotations

from pathlib import Path

from trex.datasets.layout import find_base, labels_by_name, read_names
from trex.datasets.record import Archive, Counts, Dataset, Listing, SplitListing


def read_food101(folder: Path) -> Listing:
    """Reads `meta/{train,test}.txt`, with lines `class/number`. Labels follow the sorted class names."""
    base = find_base(folder, ("meta/train.txt", "images"), ("food-101", "food-101/food-101"))
    names = {split: read_names(base / "meta" / f"{split}.txt") for split in ("train", "test")}
    classes = sorted({name.partition("/")[0] for listed in names.values() for name in listed})
    label_of = labels_by_name(classes, base)

    def labeled(listed: list[str]) -> SplitListing:
        return SplitListing(
            [f"images/{name}.jpg" for name in listed], [label_of[name.partition("/")[0]] for name in listed]
        )

    return Listing(tuple(classes), labeled(names["train"]), labeled(names["test"]), folder=base, from_list_file=True)


DATASETS = (
    Dataset(
        "food101",
        read_food101,
        Counts(classes=101, trainval=75750, test=25250),
        archives=(Archive("https://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "85eeb15f3717b99a5da872d97d918f87"),),
    ),
)
