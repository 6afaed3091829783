"""Lists and annotation files with odd content: an error that names the file, never a wrong label."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from tests.datasets.conftest import put, struct, write
from tests.datasets.trees import make
from trex.datasets.imagefolder import EXTENSIONS
from trex.errors import UserError


def write_inat(root: Path, **changes: Any) -> None:
    """Two images of two species, with one key of the training file changed."""
    value = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 7}, {"image_id": 2, "category_id": 9}],
        "categories": [{"id": 7, "name": "owl"}, {"id": 9, "name": "jay"}],
    }
    put(root / "inat2018", "a.jpg", "b.jpg")
    write(root / "inat2018/val2018.json", json.dumps(value))
    write(root / "inat2018/train2018.json", json.dumps({**value, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"categories": [{"id": [7], "name": "owl"}]},
        {"categories": [{"id": 7}, {"id": "nine"}]},
        {"categories": ["owl"]},
        {"categories": 7},
        {"annotations": [{"image_id": [1], "category_id": 7}]},
        {"annotations": [{"image_id": 1, "category_id": {}}]},
        {"images": [{"id": {}, "file_name": "a.jpg"}]},
        {"images": {"id": 1}},
    ],
    ids=str,
)
def test_annotations_of_inaturalist_with_odd_ids_are_refused_by_name(tmp_path: Path, load, changes: Any) -> None:
    write_inat(tmp_path, **changes)
    with pytest.raises(UserError, match=r"train2018\.json"):
        load("inat2018")


def test_annotations_that_are_nested_without_end_are_refused_by_name(tmp_path: Path, load) -> None:
    write_inat(tmp_path)
    (tmp_path / "inat2018/train2018.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"train2018\.json"):
        load("inat2018")


def test_species_of_the_same_name_get_a_number_and_stay_apart(tmp_path: Path, load) -> None:
    write_inat(tmp_path, categories=[{"id": 7, "name": "owl"}, {"id": 9, "name": "owl"}])
    assert load("inat2018")["test"].classes == ("owl", "owl (1)")


def test_species_without_a_name_is_called_by_its_id(tmp_path: Path, load) -> None:
    write_inat(tmp_path, categories=[{"id": 7}, {"id": 9}])
    assert load("inat2018")["trainval"].classes == ("7", "9")


def test_image_of_a_species_that_the_training_file_lacks_is_named(tmp_path: Path, load) -> None:
    write_inat(tmp_path, categories=[{"id": 7}], annotations=[{"image_id": 1, "category_id": 7}], images=[])
    with pytest.raises(UserError, match=r"val2018\.json.*image 2.*category 9"):
        load("inat2018")


@pytest.mark.parametrize(
    "line",
    [
        "Abyssinian_1",
        "Abyssinian_1 one 1 1",
        "Abyssinian_1 0 1 1",
        "Abyssinian_1 -1 1 1",
        "Abyssinian_1 38 1 1",
        "Abyssinian_1 1000000000000 1 1",
        f"Abyssinian_1 {'9' * 5000} 1 1",
        "Abyssinian_1 ٣ 1 1",
    ],
)
def test_line_of_the_pets_without_a_class_number_is_shown(tmp_path: Path, load, line: str) -> None:
    put(tmp_path / "pets", "images/Abyssinian_1.jpg")
    write(tmp_path / "pets/annotations/trainval.txt", "#Image CLASS-ID SPECIES BREED ID", line)
    write(tmp_path / "pets/annotations/test.txt")
    with pytest.raises(UserError, match=rf"trainval\.txt, line 2: found '{line[:80]}', expected .* from 1 to 37"):
        load("pets")


def test_list_that_is_not_text_is_named(tmp_path: Path, load) -> None:
    put(tmp_path / "food101", "images/apple_pie/1.jpg")
    write(tmp_path / "food101/meta/test.txt", "apple_pie/1")
    (tmp_path / "food101/meta/train.txt").write_bytes(b"apple_pie/\xff1\n")
    with pytest.raises(UserError, match=r"meta/train\.txt"):
        load("food101")


def test_list_that_is_not_there_is_named(tmp_path: Path, load) -> None:
    put(tmp_path / "food101", "images/apple_pie/1.jpg")
    write(tmp_path / "food101/meta/train.txt", "apple_pie/1")
    with pytest.raises(UserError, match=r"meta/test\.txt"):
        load("food101")


def test_blank_lines_and_spaces_around_a_name_do_not_count(tmp_path: Path, load) -> None:
    put(tmp_path / "food101", "images/apple_pie/1.jpg", "images/baklava/2.jpg")
    write(tmp_path / "food101/meta/train.txt", "", "  apple_pie/1  ", "\t")
    write(tmp_path / "food101/meta/test.txt", "baklava/2\r")
    splits = load("food101")
    assert [split.name(0) for split in splits.values()] == ["images/apple_pie/1.jpg", "images/baklava/2.jpg"]


def test_file_that_is_missing_says_what_is_in_the_folder_instead(tmp_path: Path, load) -> None:
    put(tmp_path / "sun397", "a/abbey/1.jpg", "b/beach/2.jpg")
    with pytest.raises(UserError, match=r"ClassName\.txt.*found a/, b/"):
        load("sun397")


def test_class_folders_that_are_not_there_say_what_was_expected(tmp_path: Path, load) -> None:
    put(tmp_path / "eurosat", "pictures/1.jpg")
    with pytest.raises(UserError, match=r"expected a folder per class, AnnualCrop/ … SeaLake/.*found pictures/"):
        load("eurosat")


#: An entry of a MATLAB array that should be a whole number in a small range.
ODD_NUMBERS = ["two", 0, -1, 1e300, 10**15, 1.5, float("nan"), float("inf"), [1, 2], None, {"a": 1}]


def cell(value: object) -> object:
    """The value in the form that savemat takes in a cell."""
    return np.zeros((0, 0)) if value is None else value


@pytest.mark.parametrize("value", ODD_NUMBERS, ids=str)
@pytest.mark.parametrize("field", ["class", "test"])
def test_odd_number_in_the_annotations_of_the_cars_is_named(tmp_path: Path, load, field: str, value: object) -> None:
    if (field, value) == ("test", 0):
        return  # means trainval
    base = make("cars196", tmp_path)
    columns = {"class": [2, 1, 1, 2], "test": [0, 1, 0, 1]}
    columns[field] = [columns[field][0], cell(value), *columns[field][2:]]
    annotations = struct(relative_im_path=[f"car_ims/{i:06d}.jpg" for i in range(1, 5)], **columns)
    names = np.array([["Audi TT", "BMW X5"]], object)
    savemat(base / "cars_annos.mat", {"annotations": annotations, "class_names": names})
    with pytest.raises(
        UserError, match=rf"cars_annos\.mat: {field}: entry 2 is .*expected a whole number from [01] to"
    ):
        load("cars196")


@pytest.mark.parametrize("value", ODD_NUMBERS, ids=str)
@pytest.mark.parametrize(
    ("file", "field"),
    [("imagelabels", "labels"), ("setid", "trnid"), ("setid", "valid"), ("setid", "tstid")],
)
def test_odd_number_in_the_lists_of_the_flowers_is_named(
    tmp_path: Path, load, file: str, field: str, value: object
) -> None:
    base = make("flowers", tmp_path)
    content = {key: entry for key, entry in loadmat(base / f"{file}.mat").items() if not key.startswith("__")}
    numbers = np.empty((1, content[field].size), object)
    numbers[0] = [*content[field][0][:-1], None]
    numbers[0, -1] = cell(value)
    savemat(base / f"{file}.mat", {**content, field: numbers})
    with pytest.raises(UserError, match=rf"{file}\.mat: {field}: entry {numbers.size} is .*expected a whole number"):
        load("flowers")


@pytest.mark.parametrize("value", [np.array(["one", "two"]), np.array([[1.5, 2]]), np.array([[1, 2**62]])])
def test_array_of_texts_or_odd_numbers_is_named(tmp_path: Path, load, value: np.ndarray) -> None:
    savemat(make("flowers", tmp_path) / "imagelabels.mat", {"labels": value})
    with pytest.raises(UserError, match=r"imagelabels\.mat: labels: entry [12] is .* whole number from 1 to 102"):
        load("flowers")


@pytest.mark.parametrize("name", ["aircraft", "sun397"])
def test_class_that_is_listed_twice_is_named(tmp_path: Path, load, name: str) -> None:
    base = make(name, tmp_path)
    file = base / ("variants.txt" if name == "aircraft" else "ClassName.txt")
    file.write_text(file.read_text() + file.read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match=rf"{file.name}: names the class .* twice"):
        load(name)


@pytest.mark.parametrize("found", ["car_ims/", ""])
def test_missing_annotations_of_the_cars_are_named(tmp_path: Path, load, found: str) -> None:
    base = make("cars196", tmp_path)
    (base / "cars_annos.mat").unlink()
    if not found:
        shutil.rmtree(base / "car_ims")
    with pytest.raises(UserError, match=r"expected cars_annos\.mat and car_ims in") as error:
        load("cars196")
    assert ("has no cars_annos.mat" in str(error.value)) == bool(found)


@pytest.mark.parametrize(
    ("name", "gone"),
    [("flowers", "setid.mat"), ("aircraft", "variants.txt"), ("dtd", "images"), ("pets", "annotations/trainval.txt")],
)
def test_file_that_is_missing_from_a_dataset_is_named(tmp_path: Path, load, name: str, gone: str) -> None:
    path = make(name, tmp_path) / gone
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"{name} has no {gone}"):
        load(name)


def random_damage(chance: random.Random, content: bytes) -> bytes:
    """Other, fewer or repeated bytes or lines, or another number."""
    made = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 6])):
        place = chance.randrange(len(made))
        made[place : place + chance.choice([0, 1, 1])] = chance.choice(
            [bytes([chance.randrange(256)]), b"\n", b" ", b"/", b"..", b"-1", b"999999999999", b"\xff", b"\0", b""]
        )
    lines = bytes(made).split(b"\n")
    if chance.random() < 0.2:
        lines.insert(chance.randrange(len(lines)), chance.choice(lines))
    if chance.random() < 0.1:
        del lines[chance.randrange(len(lines))]
    return b"\n".join(lines)


WITH_LISTS = (
    "cog_l1", "aircraft", "cars196", "dtd", "dtd_2", "voc2007", "cifar10", "cifar100", "flowers", "pets", "food101",
    "sun397", "inat2018",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of scipy, about damaged MATLAB files
def test_randomly_damaged_lists_are_read_or_refused_within_a_second(tmp_path: Path, load) -> None:
    chance = random.Random(0)
    outcomes = {"read": 0, "refused": 0}
    for name in WITH_LISTS:
        make(name, tmp_path)
        load(name)  # imports what the reader needs
        files = [path for path in make(name, tmp_path).rglob("*") if path.is_file()]
        lists = {path: path.read_bytes() for path in files if path.suffix.lower() not in EXTENSIONS}
        for _ in range(90):
            path = chance.choice(sorted(lists))
            path.write_bytes(random_damage(chance, lists[path]))
            start = time.process_time()
            try:
                splits = load(name)
                assert all(0 <= split.labels.max() < len(split.classes) for split in splits.values())
                outcomes["read"] += 1
            except UserError as error:
                assert str(tmp_path) in str(error), error
                outcomes["refused"] += 1
            assert time.process_time() - start < 1, path
            path.write_bytes(lists[path])
    assert sum(outcomes.values()) >= 1000, outcomes
    assert min(outcomes.values()) > 100, outcomes
