"""Images inside large files: where each one begins and ends, and how its bytes are read.

Each process opens a file once and reads at an offset (`pread`), so threads and forked processes share no position.
"""

from __future__ import annotations

import functools
import os
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trex.images.decode import MAX_BYTES, ImageFault, patiently, too_large


class Kind(IntEnum):
    """How an image is stored."""

    PLAIN = 0  #: its bytes, without a checksum: tar
    CHECKED = 1  #: its bytes, with a checksum: packs
    STORED = 2  #: behind a header of a zip, with a checksum
    DEFLATED = 3  #: the same, compressed


#: One image: number of its file, `Kind`, offset, bytes there, bytes of the image, CRC-32 of the image.
PLACE = np.dtype(
    [("file", "<u2"), ("kind", "u1"), ("offset", "<i8"), ("stored", "<u4"), ("size", "<u4"), ("crc", "<u4")]
)
MOST_FILES = 1 << 16
_ZIP_HEADER = struct.Struct("<4s22xHH")  #: signature, sizes of the name and of the extra field


class DataFile(NamedTuple):
    """A large file. Its size and version are those that its index was made for."""

    path: Path
    size: int  #: bytes
    version: str


@dataclass(frozen=True)
class Member:
    """One image in a large file. As text: the file and the image's name."""

    file: DataFile
    name: str
    kind: int
    offset: int
    stored: int  #: bytes in the file
    size: int  #: bytes of the image
    crc: int

    def __str__(self) -> str:
        return f"{self.file.path}: {self.name}"

    def content(self) -> bytes:
        """The bytes of the image file.

        Raises:
            ImageFault: if they cannot be read, are not those of the checksum, or are more than `MAX_BYTES`.
        """
        if self.size > MAX_BYTES:
            raise too_large(str(self), self.size)
        stored = patiently(str(self), self._stored)
        content = _inflated(stored, self.size) if self.kind == Kind.DEFLATED else stored
        if len(content) != self.size or (self.kind != Kind.PLAIN and zlib.crc32(content) != self.crc):
            raise ImageFault(str(self), f"its bytes are not those that {self.file.path.name} had when it was written")
        return content

    def _stored(self) -> bytes:
        try:
            handle = _opened(self.file)
            offset = self.offset
            if self.kind in (Kind.STORED, Kind.DEFLATED):
                header = handle.read(_ZIP_HEADER.size, offset)
                signature, name, extra = _ZIP_HEADER.unpack(header.ljust(_ZIP_HEADER.size, b"\0"))
                if signature != b"PK\3\4":
                    raise ImageFault(str(self), "the zip has no image at this place")
                offset += _ZIP_HEADER.size + name + extra
            return handle.read(self.stored, offset)
        except OSError:
            _opened.cache_clear()  # a file server that restarted needs the file to be opened again
            raise


@dataclass(frozen=True)
class Members:
    """The images of a split in large files."""

    files: tuple[DataFile, ...]
    places: np.ndarray  #: (n,) `PLACE`

    @property
    def packed(self) -> bool:
        """Whether all images are in a pack."""
        return bool((self.places["kind"] == Kind.CHECKED).all())

    def at(self, index: int, name: str) -> Member:
        """Image `index`, whose name is `name`."""
        file, *numbers = self.places[index].item()
        return Member(self.files[file], name, *numbers)


def _inflated(stored: bytes, size: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, size + 1)
    except zlib.error:
        return b""


class _Handle:
    """An open file. It is closed when nothing refers to it any more, so no other thread loses it while it reads."""

    def __init__(self, path: Path) -> None:
        self._number = -1
        self._number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def __del__(self) -> None:
        if self._number >= 0:
            os.close(self._number)

    @property
    def size(self) -> int:
        return os.fstat(self._number).st_size

    def read(self, count: int, offset: int) -> bytes:
        """The `count` bytes at `offset`; fewer if the file ends."""
        parts = []
        while count and (part := os.pread(self._number, count, offset)):
            parts.append(part)
            count, offset = count - len(part), offset + len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


@functools.lru_cache(maxsize=256)
def _opened(file: DataFile) -> _Handle:
    handle = _Handle(file.path)
    if handle.size != file.size:
        raise ImageFault(
            file.path, f"it has {handle.size} bytes, and {file.size} when it was listed: copy it again", broken=False
        )
    return handle
