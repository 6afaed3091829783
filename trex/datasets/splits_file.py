"""The lists of a dataset's splits as bytes: the index of a pack, and what rank 0 sends to the other ranks.

A line of text, the SHA-256 and the size of a JSON header, the header, and the arrays that it describes. Nothing is
unpickled. Equal lists give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trex.datasets.members import MOST_FILES, PLACE, DataFile, Kind, Members
from trex.datasets.split import Names, Split, SplitName

_MAGIC = b"trex lists of splits, format 1\n"
_SIZE = struct.Struct("<Q")
_DTYPES = {"ends": np.dtype("<i8"), "names": np.dtype("u1"), "places": PLACE}
_LABELS = {1: np.dtype("<i8"), 2: np.dtype("i1")}  #: by number of dimensions
_HEADER = len(_MAGIC) + hashlib.sha256().digest_size + _SIZE.size


def to_bytes(splits: Mapping[SplitName, Split]) -> bytes:
    """Write the splits, whose images are files of their own or `members`. Paths are written as they are."""
    parts: list[bytes] = []
    header = []
    for split in splits.values():
        assert split.images is None
        arrays = {"labels": split.labels, "ends": split.names.ends, "names": split.names.bytes}
        if split.members is not None:
            arrays["places"] = split.members.places
        files = () if split.members is None else split.members.files
        header.append(
            {
                "dataset": split.dataset,
                "split": split.split_name,
                "classes": split.classes,
                "folder": str(split.folder),
                "problem": split.problem,
                "left_out": split.left_out,
                "files": [[str(file.path), file.size, file.version] for file in files],
                "arrays": [[name, list(array.shape)] for name, array in arrays.items()],
            }
        )
        parts += [np.ascontiguousarray(a, _dtype(name, a.ndim)).tobytes() for name, a in arrays.items()]
    text = json.dumps(header).encode()
    content = b"".join([_SIZE.pack(len(text)), text, *parts])
    return _MAGIC + hashlib.sha256(content).digest() + content


def from_bytes(content: bytes) -> dict[SplitName, Split]:
    """The splits that `to_bytes` wrote. Raises ValueError, which says why, if the bytes are something else."""
    if not content.startswith(_MAGIC):
        raise ValueError(f"it does not begin with {_MAGIC.decode().strip()!r}")
    if hashlib.sha256(memoryview(content)[_HEADER - _SIZE.size :]).digest() != content[len(_MAGIC) :][:32]:
        raise ValueError("its bytes have another SHA-256 than when it was written")
    (size,) = _SIZE.unpack_from(content, _HEADER - _SIZE.size)
    try:
        at, splits = _HEADER + size, {}
        for entry in json.loads(content[_HEADER:at]):
            arrays = {}
            for name, shape in entry["arrays"]:
                dtype = _dtype(name, len(shape))
                arrays[name] = np.frombuffer(content, dtype, int(np.prod(shape)), at).reshape(shape)
                at += arrays[name].nbytes
            splits[entry["split"]] = _split(entry, arrays)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"unexpected content: {type(error).__name__} {error}") from error
    if splits.keys() != {"trainval", "test"} or at != len(content):
        raise ValueError("unexpected splits or size")
    return splits


def _dtype(name: str, dimensions: int) -> Any:
    return _LABELS[dimensions] if name == "labels" else _DTYPES[name]


def _split(entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Split:
    labels, ends, classes = arrays["labels"], arrays["ends"], tuple(entry["classes"])
    lengths = np.diff(ends, prepend=0)
    most = len(classes) - 1 if labels.ndim == 1 else 1
    if len(ends) != len(labels) or (lengths < 0).any() or lengths.sum() != len(arrays["names"]):
        raise ValueError("names do not fit")
    if len(labels) and not (-1 if labels.ndim == 2 else 0) <= labels.min() <= labels.max() <= most:
        raise ValueError("labels do not fit the classes")
    members = None
    if "places" in arrays:
        files = tuple(DataFile(Path(path), int(size), str(version)) for path, size, version in entry["files"])
        members = Members(files, arrays["places"])
        _require_inside(members, len(labels))
    names, folder = Names.of(ends, arrays["names"]), Path(entry["folder"])
    return Split(
        entry["dataset"], entry["split"], classes, labels.copy(), names, folder, entry["problem"],
        entry["left_out"], members=members,
    )  # fmt: skip


def _require_inside(members: Members, count: int) -> None:
    """Raise ValueError unless each of `count` images is inside one of the files."""
    places, sizes = members.places, np.array([file.size for file in members.files], np.int64)
    if len(places) != count or not 0 < len(sizes) <= MOST_FILES or (places["file"] >= len(sizes)).any():
        raise ValueError("images do not fit the files")
    ends = places["offset"] + places["stored"]
    if (places["offset"] < 0).any() or (ends > sizes[places["file"]]).any() or (places["kind"] > max(Kind)).any():
        raise ValueError("images are outside the files")
