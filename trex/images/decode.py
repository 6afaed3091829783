"""Decodes image files to RGB arrays, as Pillow does; a file that cannot be decoded is an error that names it.

EXIF orientation is ignored and alpha is dropped on purpose: published results were made that way.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from trex.errors import UserError

#: Formats that datasets contain. Pillow's other parsers are not used.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

RGB = np.ndarray  #: uint8, (H, W, 3)


class ImageFault(UserError):
    """An image cannot be read. The message names the file.

    `broken` says why: True if the content is not a readable image, so that reading it again gives the same fault; False
    if the machine did not deliver the content (no such file, no permission, an error of the disk or network).
    """

    def __init__(self, path: Path | str, problem: str, broken: bool = True) -> None:
        if broken:
            text = (
                f"{path}: not a readable image ({problem}). Restore the file, or remove it from the dataset. "
                f"data.broken_images=skip leaves such images out and marks the results"
            )
        else:
            text = f"{path}: cannot be read ({problem})"
        super().__init__(text)
        self.path, self.problem, self.broken = path, problem, broken

    @property
    def brief(self) -> str:
        """The file and the problem, in one line."""
        return f"{self.path}: {self.problem}".replace("\n", " ")

    def __reduce__(self) -> tuple[type[ImageFault], tuple[Path | str, str, bool]]:
        return (ImageFault, (self.path, self.problem, self.broken))


def fault_of(path: Path | str, error: Exception) -> ImageFault:
    """The fault for an exception that a decoder raised on an image.

    The decoders raise many types for damaged content, and all of them mean a broken image, with two exceptions: an
    OSError with an error number comes from the system, and a MemoryError says nothing about the image.
    """
    if isinstance(error, FileNotFoundError):
        return ImageFault(path, "there is no such file", broken=False)
    is_of_machine = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
    problem = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return ImageFault(path, problem, broken=not is_of_machine)


def read_rgb(path: Path) -> RGB:
    """Decode an image as Pillow's `convert("RGB")` does: uint8 (H, W, 3).

    A truncated file is an error: Pillow's `LOAD_TRUNCATED_IMAGES`, which fills the missing part with gray, is off.

    Raises:
        ImageFault: if the file is missing or cannot be read; or, with `broken`, if it is empty, truncated, not an
            image, or has too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # unusual files that can be decoded
            with Image.open(path, formats=FORMATS) as image:
                return np.array(image.convert("RGB"))
    except UnidentifiedImageError:
        return _unidentified(path)
    except Exception as error:
        raise fault_of(path, error) from error


def _unidentified(path: Path) -> RGB:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise fault_of(path, error) from None
    raise ImageFault(path, "the file is empty" if size == 0 else f"its {size} bytes have no known image format")


def read_rgb_fast(path: Path) -> RGB:
    """Like `read_rgb`, but decodes color JPEGs with libjpeg-turbo; the result may differ by a few gray levels.

    All files that are not JPEGs by their content, or that libjpeg-turbo cannot decode, are decoded by Pillow.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise fault_of(path, error) from None
    if data[:2] == b"\xff\xd8":
        try:
            height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
            # Pillow rejects images with too many pixels, with a clear message
            if colors in ("YCbCr", "RGB") and height * width <= (Image.MAX_IMAGE_PIXELS or 0):
                return simplejpeg.decode_jpeg(data, colorspace="RGB")  # type: ignore[no-any-return]
        except ValueError:
            pass  # damaged, or a kind of JPEG that Pillow may decode
    return read_rgb(path)
