"""PASCAL VOC 2007, the classification task: each image may have several of the twenty classes.

Counts: https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/dbstats.html, 5011 trainval and 4952 test images.
"""

from __future__ import annotations

from pathlib import Path

from trex.datasets.layout import find_base, read_words, whole_number
from trex.datasets.record import Archive, Counts, Dataset, Listing, SplitListing
from trex.errors import UserError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def read_voc2007(folder: Path) -> Listing:
    """Reads `ImageSets/Main/<class>_{trainval,test}.txt`, with lines `image label`.

    The label of a class is 1 if the image shows it, -1 if it does not, and 0 if it shows only objects that are marked
    as difficult: the official evaluation ignores such an image for that class. The images are sorted by name.
    """
    base = find_base(folder, ("ImageSets/Main", "JPEGImages"), ("VOC2007", "VOCdevkit/VOC2007"))
    return Listing(CLASSES, _split(base, "trainval"), _split(base, "test"), folder=base, from_list_file=True)


def _split(base: Path, split: str) -> SplitListing:
    columns = [_column(base / "ImageSets/Main" / f"{name}_{split}.txt") for name in CLASSES]
    images = sorted(columns[0])
    for name, column in zip(CLASSES, columns, strict=True):
        if column.keys() != columns[0].keys():
            odd = min(column.keys() ^ columns[0].keys())
            raise UserError(
                f"{base / 'ImageSets/Main'}: only one of {CLASSES[0]}_{split}.txt and {name}_{split}.txt has the image "
                f"{odd!r}, expected the same images in all"
            )
    labels = [tuple(column[image] for column in columns) for image in images]
    return SplitListing([f"JPEGImages/{image}.jpg" for image in images], labels)


def _column(path: Path) -> dict[str, int]:
    """The label of each image."""
    labels: dict[str, int] = {}
    for line, words in read_words(path):
        label = whole_number(words[1], -1, 1) if len(words) == 2 else None
        if label is None:
            raise UserError(f"{path}, line {line}: found {' '.join(words)[:80]!r}, expected an image and -1, 0 or 1")
        if labels.setdefault(words[0], label) != label:
            raise UserError(f"{path}, line {line}: the image {words[0]!r} has another label in an earlier line")
    return labels


_SITE = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007"

DATASETS = (
    Dataset(
        "voc2007",
        read_voc2007,
        Counts(classes=20, trainval=5011, test=4952),
        multi_label=True,
        archives=(
            Archive(f"{_SITE}/VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
            Archive(f"{_SITE}/VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
        ),
    ),
)
