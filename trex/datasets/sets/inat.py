"""iNaturalist 2018 and 2019: the challenges' JSON files, whose images and annotations are joined by `image_id`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from trex.datasets.layout import find_file
from trex.datasets.record import Archive, Counts, Dataset, Listed, Listing
from trex.errors import UserError
from trex.files import read_json

Annotations = dict[str, Any]  #: of a file in COCO's layout


def read_inat(year: int, folder: Path) -> Listing:
    """`train{year}.json` is trainval, `val{year}.json` is test; labels by sorted category id."""
    places = [folder, folder / "annotations", folder / str(year)]
    train_path, test_path = (find_file([f"{split}{year}.json"], places) for split in ("train", "val"))
    train, test = _read(train_path), _read(test_path)
    names = {category["id"]: str(category.get("name", category["id"])) for category in train["categories"]}
    ids = sorted(names)
    ranks = {category: rank for rank, category in enumerate(ids)}
    splits = [_join(train, ranks, train_path), _join(test, ranks, test_path)]
    base, cut = _image_base(folder, year, splits[0].names)
    trainval, tests = (Listed([name[cut:] for name in split.names], split.labels) for split in splits)
    return Listing(_unique([names[category] for category in ids]), trainval, tests, folder=base, listed=True)


def _read(path: Path) -> Annotations:
    try:
        value = read_json(path)
        for key, fields in (("images", ("id", "file_name")), ("annotations", ("image_id", "category_id"))):
            for entry in value[key]:
                for field in fields:
                    entry[field]
        for category in value["categories"]:
            category["id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not an annotation file of iNaturalist ({error!r})") from error
    result: Annotations = value
    return result


def _join(value: Annotations, ranks: dict[int, int], path: Path) -> Listed:
    """Paths and labels, in the order of the images."""
    categories = {entry["image_id"]: entry["category_id"] for entry in value["annotations"]}
    images, labels = [], []
    for image in value["images"]:
        category = categories.get(image["id"])
        if category not in ranks:
            what = "no annotation" if category is None else f"the category {category}, which is not in the train file"
            raise UserError(f"{path}: image {image['id']} ({image['file_name']}) has {what}")
        images.append(str(image["file_name"]))
        labels.append(ranks[category])
    return Listed(images, labels)


def _image_base(folder: Path, year: int, images: list[str]) -> tuple[Path, int]:
    """Where the listed paths begin, and how many of their characters to leave out: `train_val2018/` may be the folder
    itself."""
    top = f"train_val{year}/"
    for base, cut in ((folder, 0), (folder / "images", 0), (folder, len(top)), (folder / str(year), len(top))):
        if cut and not all(name.startswith(top) for name in images):
            continue
        if images and (base / images[0][cut:]).parent.is_dir():
            return base, cut
    raise UserError(f"{folder}: expected the images of train_val{year}.tar.gz there, such as {(images or [top])[0]}")


def _unique(names: list[str]) -> tuple[str, ...]:
    """Names as they are, with their number where two are the same."""
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
