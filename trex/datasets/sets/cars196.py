"""Stanford Cars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.datasets.layout import find_base, find_file, read_mat, whole_numbers
from trex.datasets.record import Counts, Dataset, Listing, SplitListing
from trex.errors import UserError

if TYPE_CHECKING:
    import numpy as np


def read_cars(folder: Path) -> Listing:
    """Reads Stanford Cars in either of its two official layouts.

    One folder: `cars_annos.mat` holds file names, classes and split; the images are in `car_ims/`. Devkit:
    `devkit/{cars_meta,cars_train_annos}.mat` and `cars_test_annos_withlabels.mat`; the images are in `cars_train/` and
    `cars_test/`. Both layouts hold the same 8144 and 8041 images.
    """
    places = (folder, folder / "stanford_cars", folder / "cars")
    for base in places:
        if (base / "cars_annos.mat").is_file() and ((base / "car_ims").is_dir() or not (base / "cars_train").is_dir()):
            return _one_folder(base)  # the folder check matters: some mirrors add cars_annos.mat to the devkit's images
    for base in places:
        if (base / "cars_train").is_dir() or (base / "cars_test").is_dir():
            return _devkit(find_base(base, ("cars_train", "cars_test", "devkit")))
    return _one_folder(find_base(folder, ("cars_annos.mat", "car_ims"), ("stanford_cars", "cars")))


def _one_folder(base: Path) -> Listing:
    import numpy as np

    path = base / "cars_annos.mat"
    annotations, names = read_mat(path, "annotations", "class_names")
    images = _texts(annotations, "relative_im_path", path)
    classes = tuple(str(name) for name in names)
    labels = whole_numbers(_column(annotations, "class", path), path, "class", len(classes)) - 1
    is_test = whole_numbers(_column(annotations, "test", path), path, "test", high=1, low=0) == 1

    def split(chosen: np.ndarray) -> SplitListing:
        return SplitListing([images[i] for i in np.flatnonzero(chosen)], [int(label) for label in labels[chosen]])

    return Listing(classes, split(~is_test), split(is_test), folder=base, from_list_file=True)


def _devkit(base: Path) -> Listing:
    places = [base / "devkit", base]
    (names,) = read_mat(find_file(["cars_meta.mat"], places), "class_names")
    classes = tuple(str(name) for name in names)

    def split(file: str, images: str) -> SplitListing:
        path = find_file([file], places)
        (annotations,) = read_mat(path, "annotations")
        labels = whole_numbers(_column(annotations, "class", path), path, "class", len(classes)) - 1
        inside = f"{images}/{images}"  # some archives contain the folder and are unpacked into one of the same name
        images = inside if (base / inside).is_dir() else images
        names = [f"{images}/{name}" for name in _texts(annotations, "fname", path)]
        return SplitListing(names, [int(label) for label in labels])

    trainval = split("cars_train_annos.mat", "cars_train")
    return Listing(
        classes, trainval, split("cars_test_annos_withlabels.mat", "cars_test"), folder=base, from_list_file=True
    )


def _column(annotations: Any, name: str, path: Path) -> Any:
    if annotations.dtype.names is None or name not in annotations.dtype.names:
        raise UserError(
            f"{path}: its annotations have no field {name!r}; expected a file with the labels, such as "
            f"cars_test_annos_withlabels.mat"
        )
    return annotations[name]


def _texts(annotations: Any, name: str, path: Path) -> list[str]:
    return [str(value) for value in _column(annotations, name, path)]


DATASETS = (
    Dataset(
        "cars196",
        read_cars,
        Counts(classes=196, trainval=8144, test=8041),
        steps="The official site is closed. Download the 16185 images from a mirror that you trust (torchvision's "
        "issue 7545 lists some): either car_ims/ and cars_annos.mat, or cars_train/, cars_test/, devkit/ and "
        "cars_test_annos_withlabels.mat.",
    ),
)
