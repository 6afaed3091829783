"""Lists and annotation files with odd content: an error that names the file, never a wrong label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.conftest import put, write
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


@pytest.mark.parametrize("line", ["Abyssinian_1", "Abyssinian_1 one 1 1", "Abyssinian_1 0 1 1", "Abyssinian_1 -1 1 1"])
def test_line_of_the_pets_without_a_class_number_is_shown(tmp_path: Path, load, line: str) -> None:
    put(tmp_path / "pets", "images/Abyssinian_1.jpg")
    write(tmp_path / "pets/annotations/trainval.txt", "#Image CLASS-ID SPECIES BREED ID", line)
    write(tmp_path / "pets/annotations/test.txt")
    with pytest.raises(UserError, match=rf"trainval\.txt.*'{line}'"):
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


def test_folder_with_too_few_images_to_split_is_named(tmp_path: Path, load) -> None:
    from trex.datasets.sets.eurosat import CLASSES

    put(tmp_path / "eurosat", *(f"{name}/{name}_1.jpg" for name in CLASSES))
    with pytest.raises(UserError, match=r"eurosat/AnnualCrop.* 1 images, expected 3000"):
        load("eurosat")
