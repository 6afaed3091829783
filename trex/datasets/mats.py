"""Data sets whose annotations are MATLAB files: Stanford Cars and Oxford Flowers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trex.datasets.layout import find_base, find_file, read_mat
from trex.datasets.registry import Counts, Listing, dataset
from trex.errors import UserError

Listed = tuple[list[str], list[int]]


@dataset("cars196", Counts(classes=196, trainval=8144, test=8041))
def read_cars(folder: Path) -> Listing:
    """Stanford Cars, in either form that it was given out in.

    One folder: `cars_annos.mat` with file names, classes and the split, images in `car_ims/`. Or the devkit:
    `devkit/{cars_meta,cars_train_annos}.mat` and `cars_test_annos_withlabels.mat`, images in `cars_train/` and
    `cars_test/`. Both hold the same 8144 and 8041 images.
    """
    for base in (folder, folder / "stanford_cars", folder / "cars"):
        if (base / "cars_annos.mat").is_file() and ((base / "car_ims").is_dir() or not (base / "cars_train").is_dir()):
            return _one_folder(base)  # some mirrors put this file beside the devkit's images too
    base = find_base(folder, ("cars_train", "cars_test", "devkit"), ("stanford_cars", "cars"))
    return _devkit(base)


def _one_folder(base: Path) -> Listing:
    path = base / "cars_annos.mat"
    annotations, names = read_mat(path, "annotations", "class_names")
    images = _texts(annotations, "relative_im_path", path)
    labels = _numbers(annotations, "class", path) - 1
    is_test = _numbers(annotations, "test", path) == 1
    classes = tuple(str(name) for name in names)
    _check_labels(labels, classes, path)

    def part(chosen: np.ndarray) -> Listed:
        return [images[i] for i in np.flatnonzero(chosen)], [int(label) for label in labels[chosen]]

    return Listing(classes, part(~is_test), part(is_test), folder=base, listed=True)


def _devkit(base: Path) -> Listing:
    places = [base / "devkit", base]
    (names,) = read_mat(find_file(["cars_meta.mat"], places), "class_names")
    classes = tuple(str(name) for name in names)

    def part(file: str, images: str) -> Listed:
        path = find_file([file], places)
        (annotations,) = read_mat(path, "annotations")
        labels = _numbers(annotations, "class", path) - 1
        _check_labels(labels, classes, path)
        inside = f"{images}/{images}"  # as an archive unpacks that holds the folder
        images = inside if (base / inside).is_dir() else images
        return [f"{images}/{name}" for name in _texts(annotations, "fname", path)], [int(label) for label in labels]

    trainval = part("cars_train_annos.mat", "cars_train")
    return Listing(classes, trainval, part("cars_test_annos_withlabels.mat", "cars_test"), folder=base, listed=True)


def _column(annotations: Any, name: str, path: Path) -> list[Any]:
    if annotations.dtype.names is None or name not in annotations.dtype.names:
        raise UserError(f"{path}: its annotations have no field {name!r}; is it the file with the labels?")
    return [np.asarray(value).item() for value in annotations[name]]


def _texts(annotations: Any, name: str, path: Path) -> list[str]:
    return [str(value) for value in _column(annotations, name, path)]


def _numbers(annotations: Any, name: str, path: Path) -> np.ndarray:
    return np.array([int(value) for value in _column(annotations, name, path)], dtype=np.int64)


def _check_labels(labels: np.ndarray, classes: tuple[str, ...], path: Path) -> None:
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise UserError(f"{path}: classes from {labels.min() + 1} to {labels.max() + 1}, expected 1 to {len(classes)}")


@dataset("flowers", Counts(classes=102, trainval=2040, test=6149))
def read_flowers(folder: Path) -> Listing:
    """Oxford Flowers 102: `imagelabels.mat`, `setid.mat` (trnid and valid are trainval, tstid is test)."""
    from torchvision.datasets import Flowers102

    base = find_base(folder, ("imagelabels.mat", "setid.mat"), ("flowers-102", "flowers"))
    images = next((name for name in ("jpg", "images", "102flowers/jpg") if (base / name).is_dir()), None)
    if images is None:
        raise UserError(f"{base}: expected the images of 102flowers.tgz in {base / 'jpg'}/")
    (labels,) = read_mat(base / "imagelabels.mat", "labels")
    train, validation, test = read_mat(base / "setid.mat", "trnid", "valid", "tstid")
    labels = labels.astype(np.int64) - 1
    names = tuple(Flowers102.classes)
    _check_labels(labels, names, base / "imagelabels.mat")

    def part(numbers: np.ndarray) -> Listed:
        if len(numbers) and not (numbers.min() >= 1 and numbers.max() <= len(labels)):
            raise UserError(f"{base / 'setid.mat'}: numbers of images outside 1 … {len(labels)}")
        return [f"{images}/image_{number:05d}.jpg" for number in numbers], [int(labels[n - 1]) for n in numbers]

    trainval = np.concatenate([train, validation]).astype(np.int64)
    return Listing(names, part(trainval), part(test.astype(np.int64)), folder=base, listed=True)
