"""EuroSAT (RGB): one folder per class, without an official split."""

from __future__ import annotations

import hashlib
from pathlib import Path

from trex.datasets.imagefolder import image_names
from trex.datasets.layout import find_class_folders
from trex.datasets.record import Archive, Counts, Dataset, Listing, SplitListing

#: Number of images per class in the official archive. They are named `AnnualCrop_1.jpg` … `AnnualCrop_3000.jpg`.
CLASSES = {
    "AnnualCrop": 3000, "Forest": 3000, "HerbaceousVegetation": 3000, "Highway": 2500, "Industrial": 2500,
    "Pasture": 2000, "PermanentCrop": 2500, "Residential": 3000, "River": 2500, "SeaLake": 3000,
}  # fmt: skip
TEST_IMAGES = 810  #: per class


def read_eurosat(folder: Path) -> Listing:
    """Reads EuroSAT. The test images are, per class, the 810 with the smallest SHA-256 of the name without extension.

    The split depends on the names only, so it is the same on every machine and with every library version, and each
    image of a subset is in the same split as in the complete dataset.
    """
    base = find_class_folders(folder, tuple(CLASSES), ("2750", "EuroSAT", "EuroSAT/2750", "EuroSAT_RGB"))
    classes = tuple(name for name in CLASSES if (base / name).is_dir())
    trainval, test = SplitListing([], []), SplitListing([], [])
    remarks = [f"no folder {name}/" for name in CLASSES if name not in classes]
    for label, name in enumerate(classes):
        images, last = sorted(image_names(base / name)), last_test_digest(name)
        if len(images) != CLASSES[name]:
            remarks.append(f"{name}: {len(images)} images, expected {CLASSES[name]}")
        for image in images:
            split = test if _digest(Path(image).stem) <= last else trainval
            split.names.append(f"{name}/{image}")
            split.labels.append(label)
    return Listing(classes, trainval, test, folder=base, remark="; ".join(remarks))


def last_test_digest(name: str) -> bytes:
    """The largest digest of a test image of the class `name`: the 810th smallest of the archive's images."""
    return sorted(_digest(f"{name}_{number}") for number in range(1, CLASSES[name] + 1))[TEST_IMAGES - 1]


def _digest(stem: str) -> bytes:
    return hashlib.sha256(stem.encode()).digest()


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
