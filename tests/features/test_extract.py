"""Feature files: correct features, each image once, complete or absent, never mixed with other features."""

from __future__ import annotations

import errno
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torchvision

from tests import refusing
from tests.disks import small_disk
from tests.features.conftest import command, damaged, make_features
from tests.stopping import StopAfter
from trex.config import Config, load
from trex.errors import Interrupted, UserError
from trex.features.store import open_features
from trex.loading import shared_memory
from trex.model.encoder import initial_encoder


def test_features_are_those_of_a_plain_torchvision_loop(setup, photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.resnet18()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    run, config = setup("run", f"extract.weights={tmp_path}/weights.pth")
    make_features(run, config)
    reference.fc = torch.nn.Identity()
    reference.eval()
    transform = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(64, torchvision.transforms.InterpolationMode.BICUBIC),
            torchvision.transforms.CenterCrop(56),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    folder = torchvision.datasets.ImageFolder(str(photos / "photos" / "train"), transform)
    with torch.inference_mode():
        expected = torch.stack([reference(image[None])[0] for image, _ in folder]).numpy()
    found = open_features(run.features("photos", "trainval"))
    assert np.abs(found.features - expected).max() < 1e-5
    assert found.labels.tolist() == folder.targets
    assert found.names == [f"train/{Path(p).parent.name}/{Path(p).name}" for p, _ in folder.samples]
    assert found.classes == ("class0", "class1")


def test_preprocessing_of_the_weights_gives_the_features_of_timms_own_pipeline(
    setup, photos: Path, tmp_path: Path
) -> None:
    import timm

    torch.manual_seed(0)
    network = timm.create_model("efficientnet_lite0", num_classes=0).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    settings = (f"extract.weights={tmp_path}/weights.pth", "extract.resize=null", "extract.crop=null")
    run, config = setup("lite0", "model.encoder=timm/efficientnet_lite0", "extract.preprocess=model", *settings)
    make_features(run, config)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network, use_test_size=True))
    folder = torchvision.datasets.ImageFolder(str(photos / "photos" / "val"), transform)
    with torch.inference_mode():
        expected = torch.stack([network(image[None])[0] for image, _ in folder]).numpy()
    found = open_features(run.features("photos", "test"))
    assert np.abs(found.features - expected).max() < 1e-4
    assert found.provenance.transform == (
        "model: resize 256 bicubic, center crop 224, mean 0.485 0.456 0.406, std 0.229 0.224 0.225, "
        "timm/efficientnet_lite0"
    )
    published = load(run.config, Config, ["extract.preprocess=published"])
    with pytest.raises(UserError, match=r"transform: published: resize 224 .* and model: resize 256"):
        make_features(run, published)


@pytest.mark.slow
def test_vit_of_timm_gets_images_transformed_as_in_timm(setup, photos: Path, tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    sizes = ("extract.resize=224", "extract.crop=224")
    run, config = setup("vit", "model.encoder=timm/vit_tiny_patch16_224", f"extract.weights={tmp_path}/vit.pth", *sizes)
    make_features(run, config)
    transform = timm.data.create_transform(**{**timm.data.resolve_model_data_config(vit), "crop_pct": 1.0})
    folder = torchvision.datasets.ImageFolder(str(photos / "photos" / "val"), transform)
    with torch.inference_mode():
        expected = torch.stack([vit(image[None])[0] for image, _ in folder]).numpy()
    found = open_features(run.features("photos", "test"))
    assert np.abs(found.features - expected).max() < 1e-4


def test_crop_size_that_the_vit_does_not_support_is_an_error(setup) -> None:
    run, config = setup("vit", "model.encoder=timm/vit_tiny_patch16_224")
    with pytest.raises(
        UserError, match=r"takes images of 224 x 224 pixels only, .* gives 56 x 56: set extract.crop=224"
    ):
        make_features(run, config)


def test_file_is_plain_hdf5(setup) -> None:
    run, config = setup()
    make_features(run, config)
    with h5py.File(run.features("photos", "test")) as file:
        features, labels = file["features"][:], file["labels"][:]
        names = file["names"].asstr()[:]
        assert (features.shape, features.dtype) == ((10, 512), np.float32)
        assert file["features"].chunks is None
        assert labels.tolist() == [0] * 5 + [1] * 5
        assert names[0] == "val/class0/000.jpg"
        assert file.attrs["weights"].decode() == "untrained resnet18, seed 0"


def test_non_ascii_names_are_read_by_the_documented_code(setup, photos: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(photos / "photos" / split / "class0", tmp_path / "bäume" / split / "Bäume 木")
        shutil.copytree(photos / "photos" / split / "class1", tmp_path / "bäume" / split / "Büsche")
    run, config = setup("run", f"data.folders={{photos: {tmp_path}/bäume}}", "extract.weights=pixels")
    make_features(run, config)
    path = run.features("photos", "test")
    with h5py.File(path) as file:
        names, classes = file["names"].asstr()[:], file["classes"].asstr()[:]
    assert classes.tolist() == ["Bäume 木", "Büsche"]
    assert names[0] == "val/Bäume 木/000.jpg"
    assert open_features(path).classes == tuple(classes)
    assert open_features(path).names == names.tolist()


def test_float16_halves_the_file(setup) -> None:
    run, config = setup("half", "extract.dtype=float16")
    make_features(run, config)
    assert open_features(run.features("photos", "test")).features.dtype == np.float16


def test_pixel_features_are_the_center_crop(setup) -> None:
    run, config = setup("pixels", "extract.weights=pixels")
    make_features(run, config)
    found = open_features(run.features("photos", "test")).features
    assert found.shape == (10, 3 * 56 * 56)
    assert 0 <= found.min() < found.max() <= 1


def test_existing_features_are_kept_and_other_features_are_an_error(setup) -> None:
    run, config = setup()
    make_features(run, config)
    path = run.features("photos", "trainval")
    before = path.stat().st_mtime_ns
    make_features(run, config)
    assert path.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"encoder_digest[\s\S]*delete this file"):
        make_features(run, setup("run", "train.seed=1", "name=other")[1])
    with pytest.raises(UserError, match=r"resize 60"):
        make_features(run, load(run.config, Config, ["extract.resize=60"]))


@pytest.mark.slow
def test_interrupted_extraction_resumes_to_the_same_content_and_leaves_no_other_files(setup) -> None:
    run, config = setup("uninterrupted")
    make_features(run, config)
    again, same = setup("again")
    interruptions = 0
    for checks in [2, 3, 4, 5] * 10:
        try:
            make_features(again, same, StopAfter(checks))
            break
        except Interrupted:
            interruptions += 1
            assert not again.features("photos", "test").exists() or again.features("photos", "trainval").exists()
    assert interruptions >= 4
    for split in ("trainval", "test"):
        expected = open_features(run.features("photos", split)).digest
        assert open_features(again.features("photos", split)).digest == expected
    assert sorted(path.name for path in again.features("photos", "test").parent.iterdir()) == ["test.h5", "trainval.h5"]


@pytest.mark.slow
def test_content_is_the_same_with_any_number_of_processes_and_after_a_kill(setup) -> None:
    digests = []
    for processes in (1, 3):
        run, _ = setup(f"by{processes}")
        done = subprocess.run(command(run, processes), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        digests.append(open_features(run.features("photos", "trainval")).digest)
    run, _ = setup("killed")
    job = subprocess.Popen(command(run, 2), start_new_session=True, stdout=subprocess.DEVNULL)
    while job.poll() is None and not list(run.root.glob("features/photos/.*/*.npy")):
        time.sleep(0.005)
    subprocess.run(["pkill", "-KILL", "-s", str(job.pid)], check=False)
    job.wait()
    done = subprocess.run(command(run, 1), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    digests.append(open_features(run.features("photos", "trainval")).digest)
    assert len(set(digests)) == 1


def test_all_damaged_images_are_named_and_all_other_blocks_are_kept(setup, photos: Path, tmp_path: Path) -> None:
    broken = damaged(photos, tmp_path / "data")
    run, config = setup("damaged", f"data.root={tmp_path}/data")
    with pytest.raises(UserError, match="trex data check photos") as error:
        make_features(run, config)
    assert all(str(path) in str(error.value) for path in broken)
    kept = {path: path.stat().st_mtime_ns for path in run.root.glob("features/photos/.*/*.npy")}
    assert len(kept) == 3, "there are six blocks of eight images"
    assert not run.features("photos", "trainval").exists()
    for path in broken:
        shutil.copyfile(photos / path.relative_to(tmp_path / "data"), path)
    with pytest.raises(Interrupted):  # after the first of the three missing blocks
        make_features(run, config, StopAfter(3))
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())
    make_features(run, config)
    undamaged, same = setup("undamaged")
    make_features(undamaged, same)
    digests = {open_features(one.features("photos", "trainval")).digest for one in (run, undamaged)}
    assert len(digests) == 1


@pytest.mark.slow
def test_damaged_images_of_all_ranks_are_named_by_the_command(setup, photos: Path, tmp_path: Path) -> None:
    broken = damaged(photos, tmp_path / "data")
    run, _ = setup("ranks", f"data.root={tmp_path}/data")
    done = subprocess.run(command(run, 2), capture_output=True, text=True)
    assert done.returncode == 2
    message = done.stdout[done.stdout.rindex("images that cannot be read") :]
    assert all(str(path) in message for path in broken)
    assert "Traceback" not in done.stdout


@pytest.mark.slow
def test_command_exits_with_75_after_a_signal(setup) -> None:
    run, _ = setup("stopped", "extract.batch_size=1")
    job = subprocess.Popen(command(run, 2), stdout=subprocess.DEVNULL)
    while job.poll() is None and not list(run.root.glob("features/photos/.*/*.npy")):
        time.sleep(0.005)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) in (75, 0)


def test_extraction_without_a_checkpoint_says_to_train_first(setup) -> None:
    run, config = setup("empty", "extract.weights=trained")
    with pytest.raises(UserError, match="Train first"):
        make_features(run, config)


def weights_file(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    state = initial_encoder("resnet18", 0).state_dict()
    change(state)
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


def test_weights_that_are_not_finite_are_refused_with_the_name_of_the_tensor(setup, tmp_path: Path) -> None:
    weights = weights_file(tmp_path, lambda state: state["layer2.0.conv1.weight"][0, 1].fill_(torch.nan))
    run, config = setup("run", f"extract.weights={weights}")
    with pytest.raises(UserError, match=r"weights\.pth.*: the weights layer2\.0\.conv1\.weight are not finite"):
        make_features(run, config)


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (1e8, r"class0/000\.jpg has the number .*, and float16 ends at 65504.* Set extract\.dtype=float32"),
        (1e38, r"class0/000\.jpg is not finite .*weights\.pth.*: has their training diverged"),
    ],
)
def test_feature_that_is_not_finite_ends_the_first_block_and_nothing_is_kept(
    setup, tmp_path: Path, factor: float, message: str
) -> None:
    weights = weights_file(tmp_path, lambda state: state["layer4.1.bn2.weight"].mul_(factor))
    run, config = setup("run", f"extract.weights={weights}", "extract.dtype=float16")
    with pytest.raises(UserError, match=message):
        make_features(run, config)
    done = subprocess.run(command(run, 2), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, "all ranks end, also those whose features are finite"
    assert re.search(message, done.stdout + done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    assert not list(run.root.glob("features/photos/**/*.npy"))
    assert not list(run.root.glob("features/photos/*.h5"))


WRITE = """
import sys
from pathlib import Path
import numpy as np
from tests.features.test_damaged_files import write
from trex.features.store import open_features
write(Path(sys.argv[1]))
print(open_features(Path(sys.argv[1])).names)
"""


@pytest.mark.parametrize("locking", ["TRUE", "BEST_EFFORT", "FALSE"])
def test_features_are_written_and_read_where_no_file_can_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locking: str
) -> None:
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", locking)
    done = refusing.python(WRITE, tmp_path / "test.h5", folder=tmp_path, flock=errno.ENOLCK)
    assert done.stdout == "['a.jpg', 'b.jpg', 'c.jpg']\n", done.stderr


def test_batches_that_do_not_fit_into_the_shared_memory_are_refused(
    setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = setup("run", "data.workers=2")
    with small_disk(tmp_path / "shm", "size=1m") as disk:
        monkeypatch.setattr(shared_memory, "SHARED_MEMORY", disk.folder)
        disk.fill()
        with pytest.raises(UserError, match=r"has 0\.0 MB free, and the batches need .* reduce extract\.batch_size"):
            make_features(run, config)
    assert not run.features("photos", "trainval").exists()


def test_full_disk_is_named_while_features_are_written(tmp_path: Path) -> None:
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))\n{WRITE}"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "test.h5")], capture_output=True, text=True)
    assert f"OSError: [Errno {errno.EFBIG}]" in done.stderr
    assert not list(tmp_path.iterdir())
