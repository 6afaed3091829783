"""SUN397."""

from __future__ import annotations

from pathlib import Path

from trex.datasets.layout import find_base, find_file, label_of, ranks_of, read_names
from trex.datasets.record import Counts, Dataset, Listed, Listing


def read_sun397(folder: Path) -> Listing:
    """SUN397, first split: `Training_01.txt`, `Testing_01.txt`; labels by `ClassName.txt`.

    The lists' lines begin with a slash, and classes nest: `/a/apartment_building/outdoor/sun_….jpg`. The lists come
    in an archive of their own, so they may lie beside the images' folder or in it.
    """
    base = find_base(folder, ("a", "b"), ("SUN397",))
    places = [folder, base, folder / "Partitions", base / "Partitions"]
    listed_classes = find_file(["ClassName.txt"], places)
    classes = [line.strip("/") for line in read_names(listed_classes)]
    ranks = ranks_of(classes)

    def read(name: str) -> Listed:
        path = find_file([name], places)
        images = [line.lstrip("/") for line in read_names(path)]
        return Listed(images, [label_of(image.rpartition("/")[0], ranks, path) for image in images])

    return Listing(tuple(classes), read("Training_01.txt"), read("Testing_01.txt"), folder=base, listed=True)


DATASETS = (
    Dataset(
        "sun397",
        read_sun397,
        Counts(classes=397, trainval=19850, test=19850),
        steps="The official links are dead. Get SUN397.tar.gz (MD5 8ca2778205c41d23104230ba66911c7a) and the lists "
        "ClassName.txt, Training_01.txt and Testing_01.txt of Partitions.zip from a mirror that you trust; put them "
        "beside each other.",
    ),
)
