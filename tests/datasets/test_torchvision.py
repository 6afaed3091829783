"""torchvision's datasets by the names of their classes: real classes on real files, without downloads."""

from __future__ import annotations

import pickle
import struct
import tarfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from torchvision import datasets
from torchvision.datasets.utils import extract_archive

from tests.datasets.conftest import put, write
from trex.config import Config, load
from trex.config.loader import ConfigError
from trex.config.schema import DataConfig
from trex.datasets import torchvision_sets
from trex.datasets.inspect import check_files, duplicates
from trex.datasets.registry import load_splits, own_datasets, record
from trex.errors import TrexError, UserError
from trex.images.decode import ImageFault
from trex.images.preprocessing import Geometry
from trex.loading.evaluation import evaluation_batches
from trex.records.run_dir import RunDir


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write an array in the format of the MNIST files: magic number, sizes, content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">I{values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes())


def write_mnist(root: Path, name: str = "FashionMNIST") -> tuple[np.ndarray, np.ndarray]:
    """Write scikit-learn's digits as 24 x 24 images, 1000 for training and 797 for testing.

    Returns:
        All images and their labels.
    """
    digits = load_digits()
    images = np.kron(digits.images.astype(np.uint8) * 15, np.ones((3, 3), np.uint8))
    labels = digits.target.astype(np.uint8)
    raw = root / "torchvision" / name / name / "raw"
    for prefix, indices in (("train", slice(0, 1000)), ("t10k", slice(1000, None))):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images[indices])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels[indices])
    return images, labels


def data(root: Path) -> DataConfig:
    return DataConfig(root=str(root))


@pytest.mark.parametrize("name", ["FashionMNIST", "MNIST", "KMNIST"])
def test_class_with_a_train_argument_gives_both_splits_as_rgb(tmp_path: Path, name: str) -> None:
    images, labels = write_mnist(tmp_path, name)
    splits = load_splits(f"torchvision:{name}", data(tmp_path))
    assert (len(splits["trainval"]), len(splits["test"])) == (1000, 797)
    assert splits["test"].labels.tolist() == labels[1000:].tolist()
    assert splits["test"].classes == tuple(getattr(datasets, name).classes)
    assert (splits["test"].read(7) == images[1007][:, :, None]).all()
    assert splits["trainval"].read(0).shape == (24, 24, 3)
    assert splits["test"].comparable, "like a user's own folder, it has no official counts to differ from"


def small_dtd(root: Path) -> None:
    """Write two classes per split in DTD's layout, which torchvision and our own reader both read."""
    base = root / "dtd/dtd"
    for split, numbers in (("train", (1, 2)), ("val", (3,)), ("test", (4, 5))):
        names = [f"{label}/{label}_{number}.jpg" for label in ("banded", "dotted") for number in numbers]
        write(base / f"labels/{split}1.txt", *names)
        put(base / "images", *names)


def test_train_and_val_together_are_trainval_if_the_class_has_a_test_split(tmp_path: Path) -> None:
    small_dtd(tmp_path)
    config = DataConfig(root="", folders={"torchvision:DTD": str(tmp_path), "dtd": str(tmp_path)}, subsets=("dtd",))
    torchvision, own = (load_splits(name, config) for name in ("torchvision:DTD", "dtd"))
    for split in ("trainval", "test"):
        theirs, ours = torchvision[split], own[split]
        assert [theirs.name(i) for i in range(len(theirs))] == [f"dtd/dtd/{ours.name(i)}" for i in range(len(ours))]
        assert theirs.labels.tolist() == ours.labels.tolist()
        assert theirs.classes == ours.classes
        assert all((theirs.read(i) == ours.read(i)).all() for i in range(len(ours)))


def test_val_is_the_test_split_if_the_class_has_no_test_split(tmp_path: Path) -> None:
    root = tmp_path / "torchvision/Imagenette/imagenette2"
    for wnid in datasets.Imagenette._WNID_TO_CLASS:
        put(root, f"train/{wnid}/1.jpeg", f"train/{wnid}/2.jpeg", f"val/{wnid}/3.jpeg")
    write(tmp_path / "torchvision/Imagenette/imagenette2.tgz")
    splits = load_splits("torchvision:Imagenette", data(tmp_path))
    assert (len(splits["trainval"]), len(splits["test"])) == (20, 10)
    assert splits["test"].labels.tolist() == list(range(10))
    assert "tench, Tinca tinca" in splits["test"].classes


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FakeData", "has no train and test split"),
        ("EuroSAT", "has no train and test split"),
        ("INaturalist", "has no train and test split"),
        ("Places365", "has no train and test split"),
        ("EMNIST", r"needs more than a folder \(split\)"),
        ("CIFAR1O", r"no dataset class 'CIFAR1O' .*; did you mean 'CIFAR10'\?"),
        ("CIFAR10", r"torchvision cannot read it \(Dataset not found.*`trex data get torchvision:CIFAR10`"),
        ("Food101", r"torchvision cannot read it.*data\.folders\.torchvision:Food101=…"),
        ("wrap_dataset_for_transforms_v2", "no dataset class"),
        ("datasets", "no dataset class"),
    ],
)
def test_unusable_class_or_missing_files_are_an_error_that_says_why(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_splits(f"torchvision:{name}", data(tmp_path))


def test_class_without_one_label_per_image_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "torchvision/CLEVRClassification/clevr/CLEVR_v1.0"
    put(base / "images", "train/CLEVR_train_0.png", "val/CLEVR_val_0.png", "test/CLEVR_test_0.png")
    for split in ("train", "val"):
        scenes = f'{{"scenes": [{{"image_filename": "CLEVR_{split}_0.png", "objects": [1, 2]}}]}}'
        write(base / f"scenes/CLEVR_{split}_scenes.json", scenes)
    with pytest.raises(UserError, match="does not give one class label per image"):
        load_splits("torchvision:CLEVRClassification", data(tmp_path))


@pytest.mark.parametrize("damage", [b"", b"\x00\x00\x08\x03 truncated"])
def test_damaged_file_is_an_error_that_names_the_dataset(tmp_path: Path, damage: bytes) -> None:
    write_mnist(tmp_path)
    raw = tmp_path / "torchvision/FashionMNIST/FashionMNIST/raw"
    (raw / "train-images-idx3-ubyte").write_bytes(damage)
    with pytest.raises(UserError, match=r"torchvision:FashionMNIST in .*: torchvision cannot read it"):
        load_splits("torchvision:FashionMNIST", data(tmp_path))


def test_error_for_an_image_that_cannot_be_decoded_names_the_image(tmp_path: Path) -> None:
    small_dtd(tmp_path)
    (tmp_path / "dtd/dtd/images/dotted/dotted_4.jpg").write_bytes(b"\xff\xd8\xff")
    config = DataConfig(folders={"torchvision:DTD": str(tmp_path)})
    test = load_splits("torchvision:DTD", config)["test"]
    with pytest.raises(ImageFault, match=r"torchvision:DTD in .*: test image 2: .*dotted_4\.jpg"):
        test.read(2)


def read_one(split: object, index: int) -> np.ndarray:
    return split.read(index)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_pickled_split_is_small_and_a_new_process_opens_the_dataset_again(tmp_path: Path) -> None:
    images, _ = write_mnist(tmp_path)
    split = load_splits("torchvision:FashionMNIST", data(tmp_path))["trainval"]
    assert len(pickle.dumps(split)) < 50_000
    assert pickle.loads(pickle.dumps(split)).digest == split.digest
    with get_context("spawn").Pool(1) as pool:
        assert (pool.apply(read_one, (split, 3)) == images[3][:, :, None]).all()


def test_worker_processes_read_the_images(tmp_path: Path) -> None:
    _, labels = write_mnist(tmp_path)
    split = load_splits("torchvision:FashionMNIST", data(tmp_path))["test"]
    [(pixels, found, indices)] = evaluation_batches(split, [5, 2], Geometry(24, 24), batch_size=8, workers=2)
    assert pixels.shape == (2, 3, 24, 24)
    assert found.tolist() == labels[[1005, 1002]].tolist()
    assert indices.tolist() == [5, 2]
    assert (pixels[0].numpy().transpose(1, 2, 0) == split.read(5)).all()


@pytest.mark.slow
def test_check_finds_images_in_both_splits_and_unreadable_ones(tmp_path: Path) -> None:
    small_dtd(tmp_path)
    (tmp_path / "dtd/dtd/images/dotted/dotted_4.jpg").write_bytes(b"\xff\xd8\xff")
    splits = load_splits("torchvision:DTD", DataConfig(folders={"torchvision:DTD": str(tmp_path)}))
    checks = list(check_files(splits, processes=1))
    assert len(checks) == 10
    [fault] = [check for check in checks if check.problem]
    assert (fault.split_name, fault.index) == ("test", 2)
    seen: dict = {"trainval": {}, "test": {}}
    for check in checks:
        if not check.problem:
            seen[check.split_name].setdefault(check.digest, check.index)
    assert duplicates(seen) == [(0, 0)], "all images are the same photograph"


def test_own_datasets_include_torchvision_datasets_that_have_a_folder(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    assert own_datasets(data(tmp_path)) == ["torchvision:FashionMNIST"]


def test_download_keeps_existing_files_and_lets_torchvision_download_the_others(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    complete = record("torchvision:FashionMNIST")
    complete.download(tmp_path / "torchvision/FashionMNIST")  # no file is missing, so no network is needed
    with pytest.raises(UserError, match=r"torchvision does not download torchvision:FER2013"):
        record("torchvision:FER2013").download(tmp_path / "faces")
    with pytest.raises(TrexError, match=r"torchvision:StanfordCars: torchvision could not download it"):
        record("torchvision:StanfordCars").download(tmp_path / "cars")


def test_member_of_an_archive_outside_the_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarfile.TarFile, "extraction_filter", None)  # the default before Python 3.14
    put(tmp_path, "image.jpg")
    with tarfile.open(tmp_path / "EuroSAT.tar", "w") as archive:
        archive.add(tmp_path / "image.jpg", "../outside.jpg")

    class Unpacks:
        def __init__(self, root: str, split: str = "train") -> None:
            extract_archive(f"{root}/EuroSAT.tar", f"{root}/unpacked")

    with pytest.raises(tarfile.OutsideDestinationError):
        torchvision_sets._construct(Unpacks, str(tmp_path), ("split", "train"))
    assert not (tmp_path / "outside.jpg").exists()


def test_configs_accept_the_names_and_paths_have_no_colon(tmp_path: Path) -> None:
    overrides = ["extract.datasets=[torchvision:CIFAR10, pets]", "data.folders.torchvision:CIFAR10=/somewhere"]
    config = load(None, Config, overrides)
    assert config.extract.datasets == ("torchvision:CIFAR10", "pets")
    assert config.data.folders == {"torchvision:CIFAR10": "/somewhere"}
    run = RunDir(tmp_path)
    assert run.features("torchvision:CIFAR10", "test") == tmp_path / "features/torchvision_CIFAR10/test.h5"
    assert run.probe("torchvision:CIFAR10", "exact", 0).parts[-3] == "torchvision_CIFAR10"
    for wrong in ("timm:CIFAR10", "torchvision:", "torchvision:../x", "a:b"):
        with pytest.raises(ConfigError):
            load(None, Config, [f"data.dataset={wrong}"])
        with pytest.raises(UserError, match="is not a name"):
            run.features(wrong, "test")


def test_every_class_of_torchvision_is_usable_or_refused_with_a_message(tmp_path: Path) -> None:
    refused, missing = set(), set()
    for name in datasets.__all__:
        with pytest.raises(UserError) as error:
            load_splits(f"torchvision:{name}", data(tmp_path))
        (missing if "torchvision cannot read it" in str(error.value) else refused).add(name)
    assert {"CIFAR10", "CIFAR100", "SVHN", "STL10", "GTSRB", "Food101", "PCAM", "USPS", "QMNIST", "ImageNet"} <= missing
    assert {"ImageFolder", "FakeData", "Caltech101", "SUN397", "Kinetics", "VisionDataset"} <= refused
