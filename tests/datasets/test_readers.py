"""Each official layout and its variants give the right images, classes and splits; errors name the wrong file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tests.datasets.conftest import found, put, struct, write
from trex.config.schema import DEFAULT_DATASETS, DataConfig
from trex.datasets import registry
from trex.datasets.layout import read_mat
from trex.datasets.sets.eurosat import CLASSES
from trex.errors import UserError

#: Classes, trainval and test images (arXiv 2206.15369, appendix).
OFFICIAL = {
    "in1k": (1000, 1281167, 50000),
    "cog_l1": (1000, 1118804, 50000),
    "cog_l2": (1000, 1115788, 50000),
    "cog_l3": (1000, 1095203, 50000),
    "cog_l4": (1000, 1107128, 50000),
    "cog_l5": (1000, 1091654, 50000),
    "aircraft": (100, 6667, 3333),
    "cars196": (196, 8144, 8041),
    "dtd": (47, 3760, 1880),
    "eurosat": (10, 18900, 8100),
    "flowers": (102, 2040, 6149),
    "pets": (37, 3680, 3669),
    "food101": (101, 75750, 25250),
    "sun397": (397, 19850, 19850),
    "inat2018": (8142, 437513, 24426),
    "inat2019": (1010, 265213, 3030),
}


def test_every_dataset_of_the_published_table_has_a_record_with_its_official_counts() -> None:
    assert set(DEFAULT_DATASETS) == set(OFFICIAL)
    for name, expected in OFFICIAL.items():
        counts = registry.find(name, DataConfig()).counts
        assert counts is not None
        assert (counts.classes, counts.trainval, counts.test) == expected


@pytest.mark.parametrize("inner", ["", "data", "fgvc-aircraft-2013b/data"])
def test_aircraft(tmp_path: Path, load, inner: str) -> None:
    base = tmp_path / "aircraft" / inner
    write(base / "variants.txt", "707-320", "Cessna 172", "A300B4")
    write(base / "images_variant_trainval.txt", "0034309 A300B4", "1025794 707-320")
    write(base / "images_variant_test.txt", "0056978 Cessna 172")
    put(base, "images/0034309.jpg", "images/1025794.jpg", "images/0056978.jpg", "images/9.jpg")
    splits = load("aircraft")
    assert splits["trainval"].classes == ("707-320", "Cessna 172", "A300B4")
    assert found(splits["trainval"]) == [("images/0034309.jpg", "A300B4"), ("images/1025794.jpg", "707-320")]
    assert found(splits["test"]) == [("images/0056978.jpg", "Cessna 172")]


@pytest.mark.parametrize("inner", ["", "dtd", "dtd/dtd"])
def test_dtd(tmp_path: Path, load, inner: str) -> None:
    base = tmp_path / "dtd" / inner
    write(base / "labels/train1.txt", "dotted/dotted_2.jpg")
    write(base / "labels/val1.txt", "banded/banded_1.jpg")
    write(base / "labels/test1.txt", "banded/banded_3.jpg", "dotted/dotted_4.jpg")
    put(
        base,
        *(
            f"images/{name}.jpg"
            for name in ("dotted/dotted_2", "banded/banded_1", "banded/banded_3", "dotted/dotted_4", "banded/unlisted")
        ),
    )
    (base / "images" / "banded" / ".directory").write_text("a stray file, as in the archive")
    splits = load("dtd")
    assert splits["trainval"].classes == ("banded", "dotted")
    assert found(splits["trainval"]) == [
        ("images/dotted/dotted_2.jpg", "dotted"),
        ("images/banded/banded_1.jpg", "banded"),
    ]
    assert len(found(splits["test"])) == 2


def test_pets(tmp_path: Path, load) -> None:
    base = tmp_path / "pets"
    write(
        base / "annotations/trainval.txt", "Abyssinian_100 1 1 1", "american_bulldog_10 2 2 1", "great_pyrenees_9 3 2 2"
    )
    write(base / "annotations/test.txt", "american_bulldog_11 2 2 1")
    put(
        base,
        *(
            f"images/{n}.jpg"
            for n in ("Abyssinian_100", "american_bulldog_10", "great_pyrenees_9", "american_bulldog_11")
        ),
    )
    (base / "images" / "Abyssinian_100.mat").write_text("a stray file, as in the archive")
    splits = load("pets")
    assert splits["trainval"].classes == ("Abyssinian", "american_bulldog", "great_pyrenees")
    assert splits["trainval"].labels.tolist() == [0, 1, 2]
    assert found(splits["test"]) == [("images/american_bulldog_11.jpg", "american_bulldog")]


@pytest.mark.parametrize("inner", ["", "food-101"])
def test_food101(tmp_path: Path, load, inner: str) -> None:
    base = tmp_path / "food101" / inner
    write(base / "meta/train.txt", "waffles/1", "apple_pie/2")
    write(base / "meta/test.txt", "apple_pie/3")
    put(base, "images/waffles/1.jpg", "images/apple_pie/2.jpg", "images/apple_pie/3.jpg")
    splits = load("food101")
    assert found(splits["trainval"]) == [("images/waffles/1.jpg", "waffles"), ("images/apple_pie/2.jpg", "apple_pie")]
    assert splits["trainval"].labels.tolist() == [1, 0]
    assert found(splits["test"]) == [("images/apple_pie/3.jpg", "apple_pie")]


@pytest.mark.parametrize(
    ("images", "lists"), [("", ""), ("SUN397", ""), ("SUN397", "SUN397"), ("SUN397", "Partitions")]
)
def test_sun397_lists_begin_with_a_slash_and_classes_nest(tmp_path: Path, load, images: str, lists: str) -> None:
    root = tmp_path / "sun397"
    write(root / lists / "ClassName.txt", "/a/abbey", "/b/balcony/interior", "/b/balcony/exterior")
    write(root / lists / "Training_01.txt", "/b/balcony/exterior/sun_1.jpg", "/a/abbey/sun_2.jpg")
    write(root / lists / "Testing_01.txt", "/b/balcony/interior/sun_3.jpg")
    put(root / images, "b/balcony/exterior/sun_1.jpg", "a/abbey/sun_2.jpg", "b/balcony/interior/sun_3.jpg")
    splits = load("sun397")
    assert splits["trainval"].classes == ("a/abbey", "b/balcony/interior", "b/balcony/exterior")
    assert splits["trainval"].labels.tolist() == [2, 0]
    assert found(splits["test"]) == [("b/balcony/interior/sun_3.jpg", "b/balcony/interior")]


def test_cars_in_one_folder(tmp_path: Path, load) -> None:
    base = tmp_path / "cars196"
    names = [f"car_ims/{i:06d}.jpg" for i in range(1, 5)]
    annotations = struct(relative_im_path=names, bbox_x1=[1] * 4, **{"class": [2, 1, 1, 2]}, test=[0, 1, 0, 1])
    base.mkdir()
    savemat(
        base / "cars_annos.mat", {"annotations": annotations, "class_names": np.array([["Audi TT", "BMW X5"]], object)}
    )
    put(base, *names)
    splits = load("cars196")
    assert found(splits["trainval"]) == [(names[0], "BMW X5"), (names[2], "Audi TT")]
    assert found(splits["test"]) == [(names[1], "Audi TT"), (names[3], "BMW X5")]


@pytest.mark.parametrize("inner", ["", "stanford_cars"])
@pytest.mark.parametrize("place", ["", "devkit"])
@pytest.mark.parametrize("mirror", ["official", "with cars_annos.mat", "nested folders"])
def test_cars_as_devkit(tmp_path: Path, load, inner: str, place: str, mirror: str) -> None:
    base = tmp_path / "cars196" / inner
    (base / "devkit").mkdir(parents=True)
    savemat(base / "devkit/cars_meta.mat", {"class_names": np.array([["Audi TT", "BMW X5"]], object)})
    savemat(
        base / "devkit/cars_train_annos.mat",
        {"annotations": struct(fname=["00001.jpg", "00002.jpg"], **{"class": [2, 1]})},
    )
    savemat(
        base / place / "cars_test_annos_withlabels.mat", {"annotations": struct(fname=["00001.jpg"], **{"class": [1]})}
    )
    train, test = ("cars_train", "cars_test")
    if mirror == "nested folders":
        train, test = ("cars_train/cars_train", "cars_test/cars_test")
    elif mirror == "with cars_annos.mat":
        annotations = struct(relative_im_path=["car_ims/1.jpg"], **{"class": [1]}, test=[0])
        savemat(base / "cars_annos.mat", {"annotations": annotations, "class_names": np.array([["Audi TT"]], object)})
    put(base, f"{train}/00001.jpg", f"{train}/00002.jpg", f"{test}/00001.jpg")
    splits = load("cars196")
    assert found(splits["trainval"]) == [(f"{train}/00001.jpg", "BMW X5"), (f"{train}/00002.jpg", "Audi TT")]
    assert found(splits["test"]) == [(f"{test}/00001.jpg", "Audi TT")]


@pytest.mark.parametrize("place", range(0, 400, 13))
def test_error_for_a_mat_file_with_a_flipped_byte_names_the_file(tmp_path: Path, place: int) -> None:
    path = tmp_path / "cars_annos.mat"
    savemat(path, {"annotations": np.arange(200), "class_names": np.arange(50)}, do_compression=True)
    content = bytearray(path.read_bytes())
    content[128 + place % (len(content) - 128)] ^= 0xFF
    path.write_bytes(content)
    try:
        read_mat(path, "annotations", "class_names")  # the flipped byte may also only change a number: no error then
    except UserError as error:
        assert str(path) in str(error)


def test_cars_devkit_without_test_labels_is_an_error_that_names_the_expected_file(tmp_path: Path, load) -> None:
    base = tmp_path / "cars196"
    (base / "devkit").mkdir(parents=True)
    savemat(base / "devkit/cars_meta.mat", {"class_names": np.array([["Audi TT", "BMW X5"]], object)})
    savemat(base / "devkit/cars_train_annos.mat", {"annotations": struct(fname=["1.jpg"], **{"class": [2]})})
    savemat(base / "devkit/cars_test_annos_withlabels.mat", {"annotations": struct(fname=["1.jpg"])})
    put(base, "cars_train/1.jpg", "cars_test/1.jpg")
    with pytest.raises(UserError, match=r"no field 'class'; expected a file with the labels"):
        load("cars196")


@pytest.mark.parametrize("images", ["jpg", "images"])
def test_flowers(tmp_path: Path, load, images: str) -> None:
    base = tmp_path / "flowers"
    base.mkdir()
    savemat(base / "imagelabels.mat", {"labels": np.array([[77, 1, 102, 1]], np.uint8)})
    savemat(base / "setid.mat", {"trnid": np.array([[3]]), "valid": np.array([[1]]), "tstid": np.array([[4, 2]])})
    put(base, *(f"{images}/image_0000{i}.jpg" for i in range(1, 5)))
    splits = load("flowers")
    assert splits["trainval"].labels.tolist() == [101, 76]
    assert [splits["trainval"].name(0), splits["trainval"].name(1)] == [
        f"{images}/image_00003.jpg",
        f"{images}/image_00001.jpg",
    ]
    assert found(splits["test"]) == [(f"{images}/image_0000{i}.jpg", "pink primrose") for i in (4, 2)]


def test_eurosat_split_depends_on_the_file_names_only(tmp_path: Path, load) -> None:
    base = tmp_path / "eurosat/2750"
    for name, count in CLASSES.items():
        (base / name).mkdir(parents=True)
        for i in range(1, count + 1):
            (base / name / f"{name}_{i}.jpg").touch()
    splits = load("eurosat", subset=False)
    assert (len(splits["trainval"]), len(splits["test"])) == (18900, 8100)
    assert splits["test"].classes == tuple(sorted(CLASSES))
    names = [splits["test"].name(i) for i in range(8100)]
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    assert digest == "e824942b7b0c0d7e4131bad3cf4cf07c8af1b28bd89f151b2c526f54b1b141fe", (
        "the split has changed: results would not be comparable with earlier results"
    )
    assert all(np.bincount(splits["test"].labels) == 810)


@pytest.mark.parametrize("inner", ["", "2750", "EuroSAT", "EuroSAT/2750", "EuroSAT_RGB"])
def test_eurosat_may_be_in_a_folder_of_its_archive(tmp_path: Path, load, inner: str) -> None:
    put(tmp_path / "eurosat" / inner, *(f"River/River_{i}.jpg" for i in range(1, 11)))
    assert sum(len(found(split)) for split in load("eurosat").values()) == 10


@pytest.mark.parametrize("top", ["train_val2019/", ""])
@pytest.mark.parametrize("year", [2018, 2019])
def test_inat_is_joined_by_image_id_not_by_position(tmp_path: Path, load, year: int, top: str) -> None:
    base = tmp_path / f"inat{year}"
    listed = f"train_val{year}/Plants"
    categories = [{"id": 5, "name": "Acer"}, {"id": 2, "name": "Quercus"}]
    train = {
        "images": [{"id": 7, "file_name": f"{listed}/5/a.jpg"}, {"id": 3, "file_name": f"{listed}/2/b.jpg"}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 2}, {"id": 2, "image_id": 7, "category_id": 5}],
        "categories": categories,
    }
    val = {
        "images": [{"id": 9, "file_name": f"{listed}/2/c.jpg"}],
        "annotations": [{"id": 3, "image_id": 9, "category_id": 2}],
        "categories": categories,
    }
    base.mkdir()
    (base / f"train{year}.json").write_text(json.dumps(train))
    (base / f"val{year}.json").write_text(json.dumps(val))
    put(base / (f"train_val{year}" if top else ""), "Plants/5/a.jpg", "Plants/2/b.jpg", "Plants/2/c.jpg")
    splits = load(f"inat{year}")
    assert splits["trainval"].classes == ("Quercus", "Acer")
    assert [label for _, label in found(splits["trainval"])] == ["Acer", "Quercus"]
    assert splits["trainval"].name(0).endswith("Plants/5/a.jpg")
    assert [label for _, label in found(splits["test"])] == ["Quercus"]


def small_dtd(root: Path) -> Path:
    base = root / "dtd"
    for split, name in (("train", "a/1.jpg"), ("val", "b/2.jpg"), ("test", "a/3.jpg")):
        write(base / f"labels/{split}1.txt", name)
        put(base / "images", name)
    return base


def test_missing_image_is_an_error_unless_the_dataset_is_a_declared_subset(tmp_path: Path, load) -> None:
    base = small_dtd(tmp_path)
    (base / "images/b/2.jpg").unlink()
    with pytest.raises(
        UserError, match=r"1 listed images are missing in .*: images/b/2.jpg[\s\S]*data.subsets=\[dtd\]"
    ):
        load("dtd", subset=False)
    splits = load("dtd")
    assert [name for name, _ in found(splits["trainval"])] == ["images/a/1.jpg"]
    assert not splits["trainval"].comparable


def test_wrong_counts_are_an_error_with_found_and_expected_counts(tmp_path: Path, load) -> None:
    small_dtd(tmp_path)
    with pytest.raises(UserError, match=r"found 2 classes, 2 trainval and 1 test images; expected 47, 3760 and 1880"):
        load("dtd", subset=False)


def test_unknown_layout_is_an_error_that_says_what_was_expected_and_what_was_found(tmp_path: Path, load) -> None:
    put(tmp_path / "dtd", "pictures/a.jpg")
    with pytest.raises(UserError, match=r"expected labels/train1.txt and images in one of .*found pictures/"):
        load("dtd")


@pytest.mark.parametrize("path", ["/etc/passwd", "../../secret.jpg", "a/../../../secret.jpg"])
def test_list_cannot_name_a_path_outside_the_folder(tmp_path: Path, load, path: str) -> None:
    base = small_dtd(tmp_path)
    put(tmp_path, "secret.jpg")
    write(base / "labels/train1.txt", path)
    if path.startswith("/"):  # DTD's reader puts every path below images/
        with pytest.raises(UserError, match="listed images are missing in"):
            load("dtd", subset=False)
    else:
        with pytest.raises(UserError, match="outside the folder: refused"):
            load("dtd")


def test_unknown_class_in_a_list_is_an_error_that_names_the_list(tmp_path: Path, load) -> None:
    base = tmp_path / "aircraft"
    write(base / "variants.txt", "707-320")
    write(base / "images_variant_trainval.txt", "1 Concorde")
    write(base / "images_variant_test.txt", "2 707-320")
    put(base, "images/1.jpg", "images/2.jpg")
    with pytest.raises(UserError, match=r"images_variant_trainval.txt: names the class 'Concorde'"):
        load("aircraft")


def test_inat_image_without_annotation_is_an_error_that_names_the_image(tmp_path: Path, load) -> None:
    base = tmp_path / "inat2019"
    base.mkdir()
    value = {"images": [{"id": 1, "file_name": "x.jpg"}], "annotations": [], "categories": [{"id": 0}]}
    for split in ("train", "val"):
        (base / f"{split}2019.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"train2019.json: image 1 \(x.jpg\) has no annotation"):
        load("inat2019")


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"images": [1], "annotations": [], "categories": []}'])
def test_error_for_a_damaged_json_file_names_the_file(tmp_path: Path, load, content: str) -> None:
    (tmp_path / "inat2018").mkdir()
    (tmp_path / "inat2018" / "train2018.json").write_text(content)
    (tmp_path / "inat2018" / "val2018.json").write_text(content)
    with pytest.raises(UserError, match=r"train2018.json: expected an annotation file"):
        load("inat2018")


@pytest.mark.parametrize("name", ["imagelabels.mat", "setid.mat"])
def test_error_for_a_file_that_is_not_a_mat_file_names_the_file(tmp_path: Path, load, name: str) -> None:
    base = tmp_path / "flowers"
    put(base, "jpg/image_00001.jpg")
    savemat(base / "imagelabels.mat", {"labels": np.array([[1]])})
    savemat(base / "setid.mat", {"trnid": np.array([[1]]), "valid": np.array([[1]]), "tstid": np.array([[1]])})
    (base / name).write_bytes(b"not a mat file" * 20)
    with pytest.raises(UserError, match=name):
        load("flowers")
