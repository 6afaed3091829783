"""ImageNet-1K (ILSVRC 2012)."""

from __future__ import annotations

from trex.datasets.imagefolder import read_image_folder
from trex.datasets.record import Counts, Dataset

DATASETS = (
    Dataset(
        "in1k",
        read_image_folder,
        Counts(classes=1000, trainval=1281167, test=50000),
        steps="Create an account at image-net.org, download ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
        "ILSVRC2012_devkit_t12.tar.gz, and put them into the folder above. Three torchvision functions then check "
        "their MD5, unpack them and sort the validation images by class: see docs/datasets.md, ImageNet-1K.",
        normalized=True,
        published_fit="SGD",
    ),
)
