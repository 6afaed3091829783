"""iNaturalist 2018 and 2019: the challenges' JSON files. Images and annotations are joined by `image_id`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from trex.datasets.layout import find_file, find_image_base
from trex.datasets.record import Archive, Counts, Dataset, Listing, SplitListing
from trex.errors import UserError
from trex.files import read_json

Annotations = dict[str, Any]  #: content of a JSON file in COCO's layout


def read_inat(year: int, folder: Path) -> Listing:
    """Reads `train{year}.json` as trainval and `val{year}.json` as test. Labels follow the sorted category ids."""
    places = [folder, folder / "annotations", folder / str(year)]
    train_path, test_path = (find_file([f"{split}{year}.json"], places) for split in ("train", "val"))
    train, test = _read(train_path), _read(test_path)
    names = {category["id"]: str(category.get("name", category["id"])) for category in train["categories"]}
    ids = sorted(names)
    label_of = {category: label for label, category in enumerate(ids)}
    splits = [_join(train, label_of, train_path), _join(test, label_of, test_path)]
    base, cut = _image_base(folder, year, splits[0].names)
    trainval, tests = (SplitListing([name[cut:] for name in split.names], split.labels) for split in splits)
    return Listing(_unique([names[category] for category in ids]), trainval, tests, folder=base, from_list_file=True)


def _read(path: Path) -> Annotations:
    try:
        value = read_json(path)
        for key, fields in (("images", ("id", "file_name")), ("annotations", ("image_id", "category_id"))):
            for entry in value[key]:
                for field in fields:
                    hash(entry[field])
        sorted({category["id"]: category.get("name") for category in value["categories"]})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected an annotation file of iNaturalist ({error!r})") from error
    result: Annotations = value
    return result


def _join(value: Annotations, label_of: dict[int, int], path: Path) -> SplitListing:
    """Paths and labels, in the order of the file's images."""
    categories = {entry["image_id"]: entry["category_id"] for entry in value["annotations"]}
    images, labels = [], []
    for image in value["images"]:
        category = categories.get(image["id"])
        if category not in label_of:
            what = "no annotation" if category is None else f"the category {category}, which is not in the train file"
            raise UserError(f"{path}: image {image['id']} ({image['file_name']}) has {what}")
        images.append(str(image["file_name"]))
        labels.append(label_of[category])
    return SplitListing(images, labels)


def _image_base(folder: Path, year: int, images: list[str]) -> tuple[Path, int]:
    """The folder that the listed paths are relative to, and how many of their leading characters to drop.

    The paths begin with `train_val2018/`, but the user may have named the dataset's folder that way, or unpacked there.
    """
    top = f"train_val{year}/"
    for places, cut in (((folder, folder / "images"), 0), ((folder, folder / str(year)), len(top))):
        if cut and not all(name.startswith(top) for name in images):
            continue
        if base := find_image_base((name[cut:] for name in images), places):
            return base, cut
    raise UserError(f"{folder}: expected the images of train_val{year}.tar.gz here, such as {(images or [top])[0]}")


def _unique(names: list[str]) -> tuple[str, ...]:
    """The names; a name that occurred before gets its index appended."""
    seen: set[str] = set()
    found = []
    for number, name in enumerate(names):
        found.append(f"{name} ({number})" if name in seen else name)
        seen.add(name)
    return tuple(found)


def _dataset(year: int, counts: Counts, images_md5: str) -> Dataset:
    site = f"https://ml-inat-competition-datasets.s3.amazonaws.com/{year}"
    return Dataset(
        f"inat{year}",
        partial(read_inat, year),
        counts,
        archives=(
            Archive(f"{site}/train_val{year}.tar.gz", images_md5),
            Archive(f"{site}/train{year}.json.tar.gz"),
            Archive(f"{site}/val{year}.json.tar.gz"),
        ),
        normalized=True,
        published_fit="SGD",
    )


DATASETS = (
    _dataset(2018, Counts(classes=8142, trainval=437513, test=24426), "b1c6952ce38f31868cc50ea72d066cc3"),
    _dataset(2019, Counts(classes=1010, trainval=265213, test=3030), "c60a6e2962c9b8ccbd458d12c8582644"),
)
