"""Every image file is either decoded as Pillow does or gives an error that names it."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import refusing
from trex.images.decode import ImageFault, read_rgb, read_rgb_fast


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.fixture
def unusual_files(tmp_path: Path, photograph: np.ndarray) -> dict[str, Path]:
    image = Image.fromarray(photograph)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotated
    return {
        "rgb": save(image, tmp_path / "a.jpg", quality=90),
        "gray": save(image.convert("L"), tmp_path / "b.jpg"),
        "cmyk": save(image.convert("CMYK"), tmp_path / "c.jpg"),
        "rotated": save(image, tmp_path / "d.jpg", exif=exif),
        "palette": save(image.convert("P"), tmp_path / "e.png"),
        "alpha": save(image.convert("RGBA"), tmp_path / "f.png"),
        "16 bit": save(Image.fromarray(photograph[..., 0].astype(np.uint16) << 8), tmp_path / "g.png"),
        "gif": save(image, tmp_path / "h.gif"),
        "webp": save(image, tmp_path / "i.webp"),
        "png named jpeg": Path(shutil.copy(save(image, tmp_path / "j.png"), tmp_path / "j.JPEG")),
    }


@pytest.mark.parametrize("reader", [read_rgb, read_rgb_fast])
def test_unusual_files_are_decoded_as_pillow_converts_them(unusual_files: dict[str, Path], reader) -> None:
    for kind, path in unusual_files.items():
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB")).astype(int)
        found = reader(path)
        assert found.dtype == np.uint8
        assert found.shape == expected.shape, kind
        assert np.abs(found - expected).mean() <= (0.5 if reader is read_rgb_fast else 0), kind


def test_exif_orientation_is_ignored(unusual_files: dict[str, Path]) -> None:
    assert read_rgb(unusual_files["rotated"]).shape == (375, 500, 3)


@pytest.mark.parametrize("reader", [read_rgb, read_rgb_fast])
@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "header only", "missing"])
def test_damaged_file_is_an_error_that_names_it(
    unusual_files: dict[str, Path], tmp_path: Path, reader, damage: str
) -> None:
    data = unusual_files["rgb"].read_bytes()
    path = tmp_path / "bad.jpg"
    content = {"empty": b"", "text": b"not an image", "truncated": data[: len(data) // 2], "header only": data[:20]}
    if damage != "missing":
        path.write_bytes(content[damage])
    with pytest.raises(ImageFault, match=r"bad\.jpg") as error:
        reader(path)
    assert error.value.broken == (damage != "missing")


@pytest.mark.parametrize("reader", [read_rgb, read_rgb_fast])
@pytest.mark.parametrize("obstacle", ["folder", "loop of links", "pipe"])
def test_what_is_no_file_is_not_a_broken_image(tmp_path: Path, reader, obstacle: str) -> None:
    path = tmp_path / "a.jpg"
    if obstacle == "folder":
        path.mkdir()
    elif obstacle == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    with pytest.raises(ImageFault, match=r"a\.jpg: cannot be read \(") as error:
        reader(path)
    assert not error.value.broken


def test_file_that_is_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(ImageFault, match="3221225472 bytes are too many"):
        read_rgb_fast(tmp_path / "a.jpg")


READ = """
import sys, time
from pathlib import Path
from trex.images import decode
start = time.monotonic()
try:
    print("read", decode.read_rgb(Path(sys.argv[1])).shape, decode.read_rgb_fast(Path(sys.argv[1])).shape)
except decode.ImageFault as fault:
    print(int(fault.exit_code), fault.broken, fault)
assert time.monotonic() - start < 8
"""


@pytest.mark.parametrize("call", ["open", "read"])
@pytest.mark.parametrize(
    ("error", "code", "advice"),
    [
        (errno.EACCES, 2, "let its owner run chmod a+r"),
        (errno.EIO, 1, "a fault of the file system, not of the image"),
        (errno.ESTALE, 1, "Run the same command again when the file system works"),
    ],
)
def test_fault_of_the_file_system_is_named_as_such(
    unusual_files: dict[str, Path], tmp_path: Path, call: str, error: int, code: int, advice: str
) -> None:
    path = unusual_files["rgb"]
    done = refusing.python(READ, path, folder=tmp_path, path="a.jpg", **{call: error})
    assert done.stdout.startswith(f"{code} False {path}: cannot be read ({os.strerror(error)}): "), done.stderr
    assert advice in done.stdout


@pytest.mark.parametrize("call", ["open", "read"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE])
def test_error_that_passes_is_waited_for(unusual_files: dict[str, Path], tmp_path: Path, call: str, error: int) -> None:
    done = refusing.python(READ, unusual_files["rgb"], folder=tmp_path, path="a.jpg", times=3, **{call: error})
    assert done.stdout.startswith("read (375, 500, 3)"), done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_damaged_bytes_are_decoded_or_a_broken_image_and_nothing_else(
    tmp_path: Path, photograph: np.ndarray, kind: str
) -> None:
    content = save(Image.fromarray(photograph[:60, :80]), tmp_path / f"a.{kind}").read_bytes()
    chance = np.random.default_rng(0)
    broken = 0
    for number in range(150):
        damaged = bytearray(content)
        if number % 3 == 0:
            del damaged[int(chance.integers(len(content))) :]
        for place in chance.integers(len(damaged) if number % 2 else min(len(damaged), 120), size=number % 3 * 2):
            damaged[place] = int(chance.integers(256))
        (tmp_path / "b").write_bytes(damaged)
        try:
            assert read_rgb(tmp_path / "b").dtype == np.uint8
        except ImageFault as fault:
            assert fault.broken, fault
            broken += 1
    assert broken > 20


def test_decompression_bomb_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = save(Image.new("1", (30000, 30000)), tmp_path / "bomb.png")
    with pytest.raises(ImageFault, match=r"bomb.png") as error:
        read_rgb(path)
    assert error.value.broken


@pytest.mark.parametrize("reader", [read_rgb, read_rgb_fast])
def test_jpeg_that_claims_a_billion_pixels_is_an_error_that_names_it(
    unusual_files: dict[str, Path], tmp_path: Path, reader
) -> None:
    data = bytearray(unusual_files["rgb"].read_bytes())
    frame = data.index(b"\xff\xc0")  # marker, length (2), precision (1), height (2), width (2)
    data[frame + 5 : frame + 9] = (32000).to_bytes(2, "big") * 2
    (tmp_path / "huge.jpg").write_bytes(data)
    with pytest.raises(ImageFault, match=r"huge\.jpg.*pixels"):
        reader(tmp_path / "huge.jpg")


def test_format_that_no_dataset_contains_is_refused(tmp_path: Path, photograph: np.ndarray) -> None:
    path = save(Image.fromarray(photograph), tmp_path / "a.pcx")
    with pytest.raises(ImageFault, match="no known image format"):
        read_rgb(path)


def test_image_fault_can_be_pickled(tmp_path: Path) -> None:
    for fault in (ImageFault(tmp_path / "x.jpg", "truncated"), ImageFault(tmp_path / "x.jpg", "gone", broken=False)):
        again = pickle.loads(pickle.dumps(fault))
        assert (str(again), again.broken) == (str(fault), fault.broken)
