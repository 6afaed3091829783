"""Decodes image files to RGB arrays, as Pillow does; a file that cannot be decoded is an error that names it.

EXIF orientation is ignored and alpha is dropped on purpose: published results were made that way.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from trex.errors import ExitCode, UserError
from trex.stand_ins import SIZE, stand_in

#: Formats that datasets contain. Pillow's other parsers are not used.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

MAX_BYTES = 1 << 30  #: of an image file; a larger one is something else
#: Errors of a disk, a file server or the network, which often pass; and the seconds before each new attempt.
_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN}
_WAITS = (0.1, 0.4, 1.5)
_ADVICE = {
    errno.EACCES: "this account may not read it: let its owner run chmod a+r on it, and a+rx on the folders around it",
    **dict.fromkeys(
        _PASSING,
        f"a fault of the file system, not of the image, also in {len(_WAITS)} further attempts. Run the same command "
        f"again when the file system works; if the error stays, tell its administrators",
    ),
}  # fmt: skip

T = TypeVar("T")
RGB = np.ndarray  #: uint8, (H, W, 3)


class ImageFault(UserError):
    """An image cannot be read. The message names the file.

    `broken` says why: True if the content is not a readable image, so that reading it again gives the same fault; False
    if the machine did not deliver the content (no such file, no permission, an error of the disk or network). `number`
    is the system's error number, if it gave one. A fault of disk or network is no mistake of the user (exit code 1).
    """

    def __init__(self, path: Path | str, problem: str, broken: bool = True, number: int | None = None) -> None:
        if broken:
            text = (
                f"{path}: not a readable image ({problem}). Restore the file, or remove it from the dataset. "
                f"data.broken_images=skip leaves such images out and marks the results"
            )
        else:
            advice = _ADVICE.get(number or 0)
            text = f"{path}: cannot be read ({problem}){f': {advice}' if advice else ''}"
        super().__init__(text)
        self.path, self.problem, self.broken, self.number = path, problem, broken, number
        if number in _PASSING:
            self.exit_code = ExitCode.FAULT

    @property
    def brief(self) -> str:
        """The file and the problem, in one line."""
        return f"{self.path}: {self.problem}".replace("\n", " ")

    def __reduce__(self) -> tuple[type[ImageFault], tuple[Path | str, str, bool, int | None]]:
        return (ImageFault, (self.path, self.problem, self.broken, self.number))


def fault_of(path: Path | str, error: Exception) -> ImageFault:
    """The fault for an exception that a decoder raised on an image.

    The decoders raise many types for damaged content, and all of them mean a broken image, with two exceptions: an
    OSError with an error number comes from the system, and a MemoryError says nothing about the image.
    """
    if isinstance(error, FileNotFoundError):
        return ImageFault(path, "there is no such file", broken=False)
    is_of_machine = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
    problem = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return ImageFault(path, problem, broken=not is_of_machine, number=getattr(error, "errno", None))


def read_rgb(path: Path) -> RGB:
    """Decode an image as Pillow's `convert("RGB")` does: uint8 (H, W, 3).

    A truncated file is an error: Pillow's `LOAD_TRUNCATED_IMAGES`, which fills the missing part with gray, is off.

    Raises:
        ImageFault: if the file is missing or cannot be read; or, with `broken`, if it is empty, truncated, not an
            image, or has too many pixels.
    """
    return decoded(path, content_of(path))


def content_of(path: Path) -> bytes:
    """The bytes of an image file. Errors that often pass are waited for, two seconds in total.

    Raises:
        ImageFault: if the file is missing, cannot be read, or is no file of at most `MAX_BYTES`.
    """
    return patiently(path, lambda: _content_of(path))


def patiently(path: Path | str, read: Callable[[], T]) -> T:
    """Call `read`, and again after errors that often pass, two seconds in total. Raises ImageFault for `path`."""
    for wait in (*_WAITS, None):
        try:
            return read()
        except OSError as error:
            if wait is None or error.errno not in _PASSING:
                raise fault_of(path, error) from None
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _content_of(path: Path) -> bytes:
    with io.FileIO(path, opener=_opened_without_waiting) as file:
        found = os.fstat(file.fileno())
        if found.st_size > MAX_BYTES:
            raise too_large(path, found.st_size)
        if not stat.S_ISREG(found.st_mode):
            raise ImageFault(path, "it is not a file but a pipe or a device", broken=False)
        return file.readall()


def too_large(path: Path | str, size: int) -> ImageFault:
    """The fault of a file that is too large for an image."""
    return ImageFault(path, f"its {size} bytes are too many for an image")


def _opened_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe without a writer, too, which would otherwise be waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def decoded(path: Path | str, content: bytes) -> RGB:
    """Decode the content of the image file `path`, as `read_rgb`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # unusual files that can be decoded
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                return np.array(image.convert("RGB"))
    except UnidentifiedImageError:
        size = len(content)
        problem = stand_in(content[:SIZE]) or f"its {size} bytes have no known image format"
        raise ImageFault(path, problem if size else "the file is empty") from None
    except Exception as error:
        raise fault_of(path, error) from error


def read_rgb_fast(path: Path) -> RGB:
    """Like `read_rgb`, but decodes color JPEGs with libjpeg-turbo; the result may differ by a few gray levels.

    All files that are not JPEGs by their content, or that libjpeg-turbo cannot decode, are decoded by Pillow.
    """
    return decoded_fast(path, content_of(path))


def decoded_fast(path: Path | str, content: bytes) -> RGB:
    """Decode the content of the image file `path`, as `read_rgb_fast`."""
    if content[:2] == b"\xff\xd8":
        try:
            height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
            # Pillow rejects images with too many pixels, with a clear message
            if colors in ("YCbCr", "RGB") and height * width <= (Image.MAX_IMAGE_PIXELS or 0):
                return simplejpeg.decode_jpeg(content, colorspace="RGB")  # type: ignore[no-any-return]
        except ValueError:
            pass  # damaged, or a kind of JPEG that Pillow may decode
    return decoded(path, content)
