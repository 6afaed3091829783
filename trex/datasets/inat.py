"""iNaturalist 2018 and 2019: the challenges' JSON files, whose images and annotations are joined by `image_id`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from trex.datasets.layout import find_file
from trex.datasets.registry import Counts, Listing, dataset
from trex.errors import UserError
from trex.files import read_json

Annotations = dict[str, Any]  #: of a file in COCO's layout

Listed = tuple[list[str], list[int]]


def read_inat(year: int, folder: Path) -> Listing:
    """`train{year}.json` is trainval, `val{year}.json` is test; labels by sorted category id."""
    places = [folder, folder / "annotations", folder / str(year)]
    train_path, test_path = (find_file([f"{part}{year}.json"], places) for part in ("train", "val"))
    train, test = _read(train_path), _read(test_path)
    names = {category["id"]: str(category.get("name", category["id"])) for category in train["categories"]}
    ids = sorted(names)
    ranks = {category: rank for rank, category in enumerate(ids)}
    parts = [_join(train, ranks, train_path), _join(test, ranks, test_path)]
    base = _image_base(folder, year, parts[0][0])
    cut = base[1]
    trainval, tests = (([name[cut:] for name in images], labels) for images, labels in parts)
    return Listing(_unique([names[category] for category in ids]), trainval, tests, folder=base[0], listed=True)


for _year, _counts in ((2018, Counts(8142, 437513, 24426)), (2019, Counts(1010, 265213, 3030))):
    dataset(f"inat{_year}", _counts)(partial(read_inat, _year))


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
    return images, labels


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
