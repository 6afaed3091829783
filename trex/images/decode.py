"""Image files to RGB arrays, with a defined outcome for each file: decoded as Pillow does, or named in an error.

EXIF orientation is ignored and alpha is dropped, on purpose: published numbers were made that way.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from trex.errors import UserError

#: Formats that datasets hold; Pillow's other parsers are never tried on a file.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

RGB = np.ndarray  #: uint8, (H, W, 3)


class ImageFault(UserError):
    """A file that is not a readable image; the message names it."""

    def __init__(self, path: Path | str, problem: str) -> None:
        super().__init__(f"{path}: not a readable image ({problem}). Restore the file, or take it out of the dataset.")
        self.path, self.problem = path, problem

    def __reduce__(self) -> tuple[type[ImageFault], tuple[Path | str, str]]:
        return (ImageFault, (self.path, self.problem))


def read_rgb(path: Path) -> RGB:
    """The image as Pillow's `convert("RGB")` gives it: uint8 (H, W, 3).

    Raises:
        ImageFault: if the file is missing, empty, truncated, no image, or unreasonably large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # oddities that decode all the same
            with Image.open(path, formats=FORMATS) as image:
                return np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise ImageFault(path, "there is no such file") from None
    except UnidentifiedImageError:
        size = path.stat().st_size
        problem = "the file is empty" if size == 0 else f"its {size} bytes are of no known image format"
        raise ImageFault(path, problem) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageFault(path, str(error) or type(error).__name__) from error


def read_rgb_fast(path: Path) -> RGB:
    """Like `read_rgb`, for color JPEGs through libjpeg-turbo; a few gray levels may differ. What it cannot decode,
    and what is no JPEG whatever its name, goes to Pillow."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageFault(path, "there is no such file") from None
    if data[:2] == b"\xff\xd8":
        try:
            height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
            # more pixels than Pillow allows: it says so
            if colors in ("YCbCr", "RGB") and height * width <= (Image.MAX_IMAGE_PIXELS or 0):
                return simplejpeg.decode_jpeg(data, colorspace="RGB")  # type: ignore[no-any-return]
        except ValueError:
            pass  # damaged, or of a kind that Pillow may know: it decides
    return read_rgb(path)
