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
    """A file is not a readable image. The message names the file."""

    def __init__(self, path: Path | str, problem: str) -> None:
        super().__init__(f"{path}: not a readable image ({problem}). Restore the file, or remove it from the dataset.")
        self.path, self.problem = path, problem

    def __reduce__(self) -> tuple[type[ImageFault], tuple[Path | str, str]]:
        return (ImageFault, (self.path, self.problem))


def read_rgb(path: Path) -> RGB:
    """Decode an image as Pillow's `convert("RGB")` does: uint8 (H, W, 3).

    Raises:
        ImageFault: if the file is missing, empty, truncated, not an image, or has too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # unusual files that can be decoded
            with Image.open(path, formats=FORMATS) as image:
                return np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise ImageFault(path, "there is no such file") from None
    except UnidentifiedImageError:
        size = path.stat().st_size
        problem = "the file is empty" if size == 0 else f"its {size} bytes have no known image format"
        raise ImageFault(path, problem) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageFault(path, str(error) or type(error).__name__) from error


def read_rgb_fast(path: Path) -> RGB:
    """Like `read_rgb`, but decodes color JPEGs with libjpeg-turbo; the result may differ by a few gray levels.

    All files that are not JPEGs by their content, or that libjpeg-turbo cannot decode, are decoded by Pillow.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageFault(path, "there is no such file") from None
    if data[:2] == b"\xff\xd8":
        try:
            height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
            # Pillow rejects images with too many pixels, with a clear message
            if colors in ("YCbCr", "RGB") and height * width <= (Image.MAX_IMAGE_PIXELS or 0):
                return simplejpeg.decode_jpeg(data, colorspace="RGB")  # type: ignore[no-any-return]
        except ValueError:
            pass  # damaged, or a kind of JPEG that Pillow may decode
    return read_rgb(path)
