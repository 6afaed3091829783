"""FGVC-Aircraft."""

from __future__ import annotations

from pathlib import Path

from trex.datasets.layout import find_base, label_of_class, labels_by_name, read_names
from trex.datasets.record import Archive, Counts, Dataset, Listing, SplitListing


def read_aircraft(folder: Path) -> Listing:
    """Reads the variants of FGVC-Aircraft 2013b: `images_variant_{trainval,test}.txt`.

    Labels follow the order of `variants.txt`.
    """
    inner = ("data", "fgvc-aircraft-2013b/data", "fgvc-aircraft-2013b")
    base = find_base(folder, ("images_variant_trainval.txt", "variants.txt", "images"), inner)
    classes = read_names(base / "variants.txt")

    def read(name: str) -> SplitListing:
        path, label_of = base / name, labels_by_name(classes, base / "variants.txt")
        rows = [line.partition(" ") for line in read_names(path)]
        names = [f"images/{image}.jpg" for image, _, _ in rows]
        return SplitListing(names, [label_of_class(label, label_of, path) for _, _, label in rows])

    return Listing(
        tuple(classes),
        read("images_variant_trainval.txt"),
        read("images_variant_test.txt"),
        folder=base,
        from_list_file=True,
    )


DATASETS = (
    Dataset(
        "aircraft",
        read_aircraft,
        Counts(classes=100, trainval=6667, test=3333),
        archives=(Archive("https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz"),),
    ),
)
