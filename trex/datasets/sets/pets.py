"""Oxford-IIIT Pets."""

from __future__ import annotations

from pathlib import Path

from trex.datasets.layout import find_base, read_words, whole_number
from trex.datasets.record import Archive, Counts, Dataset, Listing, SplitListing
from trex.errors import UserError

COUNTS = Counts(classes=37, trainval=3680, test=3669)


def read_pets(folder: Path) -> Listing:
    """Reads `annotations/{trainval,test}.txt`, with lines `name class species breed` and classes counted from 1."""
    base = find_base(folder, ("annotations/trainval.txt", "images"), ("oxford-iiit-pet",))
    names: dict[int, str] = {}

    def read(split: str) -> SplitListing:
        path = base / "annotations" / f"{split}.txt"
        images, labels = [], []
        for line, words in read_words(path):
            if words[0].startswith("#"):
                continue
            number = whole_number(words[1], 1, COUNTS.classes) if len(words) > 1 else None
            if number is None:
                raise UserError(
                    f"{path}, line {line}: found {' '.join(words)[:80]!r}, "
                    f"expected a name and a class number from 1 to {COUNTS.classes}"
                )
            names.setdefault(number - 1, words[0].rpartition("_")[0])
            images.append(f"images/{words[0]}.jpg")
            labels.append(number - 1)
        return SplitListing(images, labels)

    trainval, test = read("trainval"), read("test")
    classes = tuple(names.get(label, str(label + 1)) for label in range(max(names, default=-1) + 1))
    return Listing(classes, trainval, test, folder=base, from_list_file=True)


DATASETS = (
    Dataset(
        "pets",
        read_pets,
        COUNTS,
        archives=(
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"
            ),
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"
            ),
        ),
    ),
)
