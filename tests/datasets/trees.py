"""A small tree in the official layout of each registered dataset: two images or more per split."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.datasets.conftest import put, struct, write
from trex.datasets.sets.voc2007 import CLASSES as VOC_CLASSES


def _in1k(base: Path) -> None:
    put(base, *(f"{split}/n0{c}/{i}.JPEG" for split in ("train", "val") for c in (1, 2) for i in (1, 2)))


def _cog(base: Path) -> None:
    levels = [[f"n{level}{i:07d}" for i in (2, 1)] for level in range(5)]
    split = {}
    for wnid in (wnid for level in levels for wnid in level):
        names = [f"{wnid}/{wnid}_{i}.JPEG" for i in (1, 2, 3, 4)]
        put(base, *names)
        split[wnid] = {"train": np.array(names[:2], object), "test": np.array(names[2:], object)}
    (base / "levels.pkl").write_bytes(pickle.dumps(levels))
    (base / "files.pkl").write_bytes(pickle.dumps(split))


def _aircraft(base: Path) -> None:
    write(base / "variants.txt", "707-320", "A300B4")
    write(base / "images_variant_trainval.txt", "1 A300B4", "2 707-320")
    write(base / "images_variant_test.txt", "3 A300B4", "4 707-320")
    put(base, *(f"images/{i}.jpg" for i in (1, 2, 3, 4)))


def _cars(base: Path) -> None:
    names = [f"car_ims/{i:06d}.jpg" for i in range(1, 5)]
    annotations = struct(relative_im_path=names, **{"class": [2, 1, 1, 2]}, test=[0, 1, 0, 1])
    put(base, *names)
    names_of_classes = np.array([["Audi TT", "BMW X5"]], object)
    savemat(base / "cars_annos.mat", {"annotations": annotations, "class_names": names_of_classes})


def _dtd(base: Path) -> None:
    for split, numbers in (("train", (1, 2)), ("val", (3,)), ("test", (4, 5))):
        names = [f"{label}/{label}_{number}.jpg" for label in ("banded", "dotted") for number in numbers]
        write(base / f"labels/{split}1.txt", *names)
        put(base / "images", *names)


def _eurosat(base: Path) -> None:
    put(base, *(f"2750/{name}/{name}_{i}.jpg" for name in ("Forest", "River") for i in range(1, 11)))


def _flowers(base: Path) -> None:
    put(base, *(f"jpg/image_{i:05d}.jpg" for i in range(1, 7)))
    savemat(base / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 1, 2]], np.uint8)})
    savemat(base / "setid.mat", {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6]]})


def _pets(base: Path) -> None:
    for split, number in (("trainval", 1), ("test", 2)):
        write(base / f"annotations/{split}.txt", f"Abyssinian_{number} 1 1 1", f"beagle_{number} 2 2 1")
        put(base, f"images/Abyssinian_{number}.jpg", f"images/beagle_{number}.jpg")


def _food101(base: Path) -> None:
    for split, number in (("train", 1), ("test", 2)):
        names = [f"apple_pie/{number}", f"waffles/{number}"]
        write(base / f"meta/{split}.txt", *names)
        put(base / "images", *(f"{name}.jpg" for name in names))


def _sun397(base: Path) -> None:
    """The classes begin with c and k: there is no folder a or b."""
    write(base / "ClassName.txt", "/c/canyon", "/k/kitchen")
    for split, number in (("Training", 1), ("Testing", 2)):
        names = [f"/{name}/sun_{number}.jpg" for name in ("c/canyon", "k/kitchen")]
        write(base / f"{split}_01.txt", *names)
        put(base, *(name.lstrip("/") for name in names))


def _inat(base: Path, year: int) -> None:
    for split, number in (("train", 1), ("val", 5)):
        images = [{"id": number + i, "file_name": f"train_val{year}/Plants/{2 + i}/{number}.jpg"} for i in range(2)]
        annotations = [{"image_id": number + i, "category_id": 2 + i} for i in range(2)]
        value = {"images": images, "annotations": annotations, "categories": [{"id": 2}, {"id": 3}]}
        write(base / f"{split}{year}.json", json.dumps(value))
        put(base, *(str(image["file_name"]) for image in images))


def _dtd_splits(base: Path) -> None:
    """Split n has image n of each class as its training image."""
    for partition in range(1, 11):
        for split, number in (("train", partition), ("val", partition % 10 + 1), ("test", (partition + 1) % 10 + 1)):
            names = [f"{label}/{label}_{number}.jpg" for label in ("banded", "dotted")]
            write(base / f"labels/{split}{partition}.txt", *names)
            put(base / "images", *names)


def _caltech101(base: Path) -> None:
    for name, count in (("accordion", 55), ("BACKGROUND_Google", 33)):
        put(base / "101_ObjectCategories", *(f"{name}/image_{i:04d}.jpg" for i in range(1, count + 1)))


def _places365(base: Path) -> None:
    names = ("a/airfield", "a/apartment_building/outdoor")
    put(base, *(f"{split}/{name}/{i}.jpg" for split in ("train", "val") for name in names for i in (1, 2)))


def cifar_images(count: int, seed: int) -> np.ndarray:
    """Noise: uint8 (count, 32, 32, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def cifar_file(images: np.ndarray, *labels: list[int]) -> bytes:
    """A file of the binary version; `labels` has one list per label byte."""
    records = [
        bytes(column[i] for column in labels) + images[i].transpose(2, 0, 1).tobytes() for i in range(len(images))
    ]
    return b"".join(records)


def _cifar10(base: Path) -> None:
    inner = base / "cifar-10-batches-bin"
    write(inner / "batches.meta.txt", "airplane", "automobile", "")
    for number in range(1, 6):
        (inner / f"data_batch_{number}.bin").write_bytes(cifar_file(cifar_images(2, number), [0, 1]))
    (inner / "test_batch.bin").write_bytes(cifar_file(cifar_images(3, 6), [1, 0, 1]))


def _cifar100(base: Path) -> None:
    inner = base / "cifar-100-binary"
    write(inner / "fine_label_names.txt", "apple", "aquarium_fish", "baby")
    (inner / "train.bin").write_bytes(cifar_file(cifar_images(4, 0), [9, 9, 8, 8], [2, 1, 0, 2]))
    (inner / "test.bin").write_bytes(cifar_file(cifar_images(2, 1), [9, 8], [1, 0]))


def _voc2007(base: Path) -> None:
    """Image n shows class n, is ignored for class n + 1, and also shows a person."""
    for split, first in (("trainval", 0), ("test", 10)):
        labels = np.full((10, 20), -1)
        for row, image in enumerate(range(first, first + 10)):
            labels[row, image + 1 : image + 2] = 0
            labels[row, [image, VOC_CLASSES.index("person")]] = 1
        names = [f"{image:06d}" for image in range(first, first + 10)]
        put(voc_lists(base, split, names, labels), *(f"JPEGImages/{name}.jpg" for name in names))


def voc_lists(base: Path, split: str, names: list[str], labels: np.ndarray) -> Path:
    """Write the lists of a split of VOC 2007; `labels` is (n, 20) of -1, 0 and 1. Returns the folder of the images."""
    inner = base / "VOCdevkit/VOC2007"
    for name, column in zip(VOC_CLASSES, labels.T, strict=True):
        lines = [f"{image} {value:2d}" for image, value in zip(names, column, strict=True)]
        write(inner / f"ImageSets/Main/{name}_{split}.txt", *lines)
    return inner


#: Folder in `data.root` and function that writes the tree there, by dataset.
TREES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "in1k": ("in1k", _in1k),
    **{f"cog_l{level}": ("cog", _cog) for level in range(1, 6)},
    "aircraft": ("aircraft", _aircraft),
    "cars196": ("cars196", _cars),
    "dtd": ("dtd", _dtd),
    **{f"dtd_{partition}": ("dtd", _dtd_splits) for partition in range(2, 11)},
    "caltech101": ("caltech101", _caltech101),
    "places365": ("places365", _places365),
    "voc2007": ("voc2007", _voc2007),
    "cifar10": ("cifar10", _cifar10),
    "cifar100": ("cifar100", _cifar100),
    "eurosat": ("eurosat", _eurosat),
    "flowers": ("flowers", _flowers),
    "pets": ("pets", _pets),
    "food101": ("food101", _food101),
    "sun397": ("sun397", _sun397),
    "inat2018": ("inat2018", lambda base: _inat(base, 2018)),
    "inat2019": ("inat2019", lambda base: _inat(base, 2019)),
}


def make(name: str, root: Path) -> Path:
    """Write the small tree of the dataset `name` to its folder in `root`; returns the folder."""
    folder, function = TREES[name]
    function(root / folder)
    return root / folder
