"""SUN397."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase

from trex.datasets.layout import find_class_folders, find_file, label_of_class, labels_by_name, read_names
from trex.datasets.record import Counts, Dataset, Listing, SplitListing


def read_sun397(folder: Path) -> Listing:
    """Reads the first split of SUN397: `Training_01.txt` and `Testing_01.txt`. Labels follow `ClassName.txt`.

    Lines of the lists begin with a slash, and classes are nested: `/a/apartment_building/outdoor/sun_….jpg`. The lists
    are in a separate archive, so they may be next to the folder of the images or inside it.
    """
    base = find_class_folders(folder, ascii_lowercase, ("SUN397",))
    places = [folder, base, folder / "Partitions", base / "Partitions"]
    listed_classes = find_file(["ClassName.txt"], places)
    classes = [line.strip("/") for line in read_names(listed_classes)]
    label_of = labels_by_name(classes, listed_classes)

    def read(name: str) -> SplitListing:
        path = find_file([name], places)
        images = [line.lstrip("/") for line in read_names(path)]
        return SplitListing(images, [label_of_class(image.rpartition("/")[0], label_of, path) for image in images])

    return Listing(tuple(classes), read("Training_01.txt"), read("Testing_01.txt"), folder=base, from_list_file=True)


DATASETS = (
    Dataset(
        "sun397",
        read_sun397,
        Counts(classes=397, trainval=19850, test=19850),
        steps="The official links are dead. Download SUN397.tar.gz (MD5 8ca2778205c41d23104230ba66911c7a) and "
        "Partitions.zip from a mirror that you trust. Unpack SUN397.tar.gz into the folder above, and put "
        "ClassName.txt, Training_01.txt and Testing_01.txt of Partitions.zip into the same folder.",
    ),
)
