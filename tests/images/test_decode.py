"""Every image file is either decoded as Pillow does or gives an error that names it."""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
@pytest.mark.parametrize("obstacle", ["folder", "loop of links", "no permission", "error of the disk"])
def test_fault_of_the_machine_is_not_a_broken_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader, obstacle: str
) -> None:
    path = tmp_path / "a.jpg"
    if obstacle == "folder":
        path.mkdir()
    elif obstacle == "loop of links":
        path.symlink_to(path)
    else:  # root may read everything, and disks cannot be made to fail here
        path.touch()
        number = errno.EACCES if obstacle == "no permission" else errno.EIO

        def fail(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Path, "read_bytes", fail)
        monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageFault, match=r"a\.jpg: cannot be read \(") as error:
        reader(path)
    assert not error.value.broken


def test_error_of_the_disk_in_the_middle_of_a_file_is_not_a_broken_image(
    unusual_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            if self.tell() > 4000:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    opened = Image.open
    with Failing(unusual_files["png named jpeg"]) as file:
        monkeypatch.setattr(Image, "open", lambda _, **more: opened(file, **more))
        with pytest.raises(ImageFault, match="cannot be read") as error:
            read_rgb(unusual_files["png named jpeg"])
    assert not error.value.broken


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
