"""EuroSAT (RGB): one folder per class, without an official split."""

from __future__ import annotations

import hashlib
from pathlib import Path

from trex.datasets.imagefolder import image_names
from trex.datasets.layout import find_base
from trex.datasets.record import Archive, Counts, Dataset, Listing, SplitListing
from trex.errors import UserError

#: Number of images per class in the official archive.
CLASSES = {
    "AnnualCrop": 3000, "Forest": 3000, "HerbaceousVegetation": 3000, "Highway": 2500, "Industrial": 2500,
    "Pasture": 2000, "PermanentCrop": 2500, "Residential": 3000, "River": 2500, "SeaLake": 3000,
}  # fmt: skip
TEST_IMAGES = 810  #: per class


def read_eurosat(folder: Path) -> Listing:
    """Reads EuroSAT. The test images are, per class, the 810 with the smallest SHA-256 of the name without extension.

    The split depends on the names only, so it is the same on every machine and with every library version.
    """
    base = find_base(folder, tuple(CLASSES), ("2750", "EuroSAT", "EuroSAT/2750", "EuroSAT_RGB"))
    trainval, test = SplitListing([], []), SplitListing([], [])
    remarks = []
    for label, (name, expected) in enumerate(CLASSES.items()):
        images = sorted(image_names(base / name))
        by_digest = sorted(images, key=lambda image: hashlib.sha256(Path(image).stem.encode()).digest())
        chosen = set(by_digest[:TEST_IMAGES])
        if len(images) <= TEST_IMAGES:
            raise UserError(
                f"{base / name}: found {len(images)} images, expected {expected}: too few to split. "
                f"Unpack the official archive again"
            )
        if len(images) != expected:
            remarks.append(f"{name}: {len(images)} images, expected {expected}")
        for image in images:
            split = test if image in chosen else trainval
            split.names.append(f"{name}/{image}")
            split.labels.append(label)
    return Listing(tuple(CLASSES), trainval, test, folder=base, remark="; ".join(remarks))


DATASETS = (
    Dataset(
        "eurosat",
        read_eurosat,
        Counts(classes=10, trainval=18900, test=8100),
        archives=(
            Archive(
                "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                "c8fa014336c82ac7804f0398fcb19387",
            ),
        ),
    ),
)
