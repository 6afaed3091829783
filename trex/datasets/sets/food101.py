"""Food-101."""

from __future__ import annotations

from pathlib import Path

from trex.datasets.layout import find_base, ranks_of, read_names
from trex.datasets.record import Archive, Counts, Dataset, Listed, Listing


def read_food101(folder: Path) -> Listing:
    """Food-101: `meta/{train,test}.txt`, lines `class/number`; labels by sorted class names."""
    base = find_base(folder, ("meta/train.txt", "images"), ("food-101", "food-101/food-101"))
    names = {split: read_names(base / "meta" / f"{split}.txt") for split in ("train", "test")}
    classes = sorted({name.partition("/")[0] for listed in names.values() for name in listed})
    ranks = ranks_of(classes)

    def labeled(listed: list[str]) -> Listed:
        return Listed([f"images/{name}.jpg" for name in listed], [ranks[name.partition("/")[0]] for name in listed])

    return Listing(tuple(classes), labeled(names["train"]), labeled(names["test"]), folder=base, listed=True)


DATASETS = (
    Dataset(
        "food101",
        read_food101,
        Counts(classes=101, trainval=75750, test=25250),
        archives=(Archive("https://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "85eeb15f3717b99a5da872d97d918f87"),),
    ),
)
