"""Write tensors to disk atomically, and read them without running code from the file.

A path that ends in `.safetensors` is a safetensors file; any other path is a PyTorch file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from trex.errors import UserError
from trex.files import atomic_path
from trex.pickle_limits import Unbounded, require_bounded
from trex.placeholders import PLACEHOLDERS
from trex.stand_ins import stand_in_at

SAFETENSORS = ".safetensors"
_MAX_PICKLE = 256 << 20  #: bytes of the pickle in an archive, which holds names and shapes, not the tensors' content
_LEGACY_PICKLES = 5  #: at the start of a file of PyTorch before 1.6
_MAX_INFLATION = 10
_MAX_REPEATED = 1 << 30  #: bytes; a file may store one element of a tensor that repeats it
_LOCK = threading.Lock()  #: torch's list of allowed names belongs to the process


def save(value: Any, path: Path) -> None:
    """Write tensors and plain dicts, lists, strings and numbers to `path`, atomically and durably.

    For a safetensors file, `value` must be a flat dict of contiguous tensors.

    Raises:
        OSError: if the file cannot be written.
    """
    if path.suffix != SAFETENSORS:
        save_and_hash(value, path)
        return
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file(value, temporary, metadata={"format": "pt"})


def save_and_hash(value: Any, path: Path) -> tuple[int, str]:
    """Write a PyTorch file as `save` does, and hash its content on the way to the disk.

    Returns:
        Size in bytes, and SHA-256 in hexadecimal digits, of what was written.

    Raises:
        OSError: if the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        hashed = _Hashed(file)
        try:
            torch.save(value, cast(IO[bytes], hashed))
        except RuntimeError as error:  # PyTorch hides the error of the file behind one of its own archive writer
            raise hashed.error or OSError(f"cannot write {path}: {_first_line(error)}") from error
        file.flush()
    return hashed.size, hashed.sha256.hexdigest()


class _Hashed:
    """Passes what PyTorch writes on to a file, and hashes it. PyTorch writes an archive from its beginning to its end.

    The methods are those that torch.save calls.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None  #: the first error of the file

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise
        self.sha256.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()


def size(value: Any) -> int:
    """Return how many bytes the tensors in a value take, at least. The file that `save` writes is hardly larger."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(size, value.values()))
    return sum(map(size, value)) if isinstance(value, list | tuple) else 0


def load(path: Path) -> Any:
    """Read a file written by `save`, `torch.save` or safetensors.

    Tensors are loaded to the CPU. Only tensors and plain values are read, so the file cannot run code. Numpy's scalars
    become Python's numbers. Numpy's arrays, an `argparse.Namespace` and paths become placeholders
    (`trex.placeholders`).

    Raises:
        UserError: if the file is missing, damaged, or holds anything else.
    """
    _refuse_stand_in(path)
    if path.suffix == SAFETENSORS:
        return _load_safetensors(path)
    return _load_pytorch(path, path)


def load_bytes(content: bytes, path: Path) -> Any:
    """Read a PyTorch file whose content is in memory, as `load` does.

    Args:
        content: the whole file.
        path: of the file, for error messages. It is not opened.

    Raises:
        UserError: if the content is damaged, or holds anything but tensors and plain values.
    """
    return _load_pytorch(content, path)


def _load_pytorch(source: Path | bytes, path: Path) -> Any:
    """Read a PyTorch file from its path or its content. Errors name `path`."""
    _refuse_inflated(source, path)
    try:
        _refuse_unbounded(source)
        with _only_placeholders():
            readable = source if isinstance(source, Path) else io.BytesIO(source)
            found = torch.load(readable, map_location="cpu", weights_only=True)
        _refuse_repeated_storage(found)
        return found
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: refused: {_refused(str(error))}") from error
    except Exception as error:  # a damaged pickle or archive can raise almost any exception
        raise UserError(f"{path}: not a readable PyTorch file ({_damage(error)})") from error


@contextlib.contextmanager
def _only_placeholders() -> Iterator[None]:
    """Let torch's weights-only reader accept the placeholders, and nothing else that this process has allowed."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another pickle protocol, or a TorchScript archive: the error says it
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(PLACEHOLDERS))
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


def _refuse_stand_in(path: Path) -> None:
    """Raise UserError if the file is missing, or if a pointer or a page is in its place."""
    try:
        found = stand_in_at(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if found:
        raise UserError(f"{path}: {found}")


def _opened(source: Path | bytes) -> IO[bytes]:
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)


def _refuse_inflated(source: Path | bytes, path: Path) -> None:
    """Raise UserError if the file is an archive that would need far more memory than it has bytes.

    `torch.save` does not compress, and weights can hardly be compressed. A damaged archive is reported later.
    """
    with (
        contextlib.suppress(zipfile.BadZipFile, OSError, ValueError, NotImplementedError),
        _opened(source) as opened,
        zipfile.ZipFile(opened) as file,
    ):
        size, unpacked = opened.seek(0, io.SEEK_END), sum(entry.file_size for entry in file.infolist())
        if unpacked > _MAX_INFLATION * size:
            raise UserError(f"{path}: refused: a compressed archive of {size} bytes that unpacks to {unpacked} bytes")


def _refuse_unbounded(source: Path | bytes) -> None:
    """Raise ValueError if a pickle in the file would take time or memory out of proportion to its size."""
    with _opened(source) as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            with _noticed_later():
                for _ in range(_LEGACY_PICKLES):
                    require_bounded(file)
            return
    with _opened(source) as file, zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".pkl"):
                if entry.file_size > _MAX_PICKLE:
                    raise ValueError(
                        f"its {entry.filename} has {entry.file_size} bytes, expected at most {_MAX_PICKLE}"
                    )
                with _noticed_later():
                    require_bounded(archive.read(entry))


@contextlib.contextmanager
def _noticed_later() -> Iterator[None]:
    """Ignore that a pickle ends too early or has an unknown instruction: torch stops there too, and says more."""
    try:
        yield
    except Unbounded:
        raise
    except ValueError:
        pass


def _refuse_repeated_storage(value: Any) -> None:
    """Raise ValueError if the tensors together are far larger in memory than in the file, which repeats elements."""
    waiting, seen, more = [value], set[int](), 0
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor) and item.layout == torch.strided:
            stored = item.untyped_storage().nbytes()
            more += max(item.numel() * item.element_size() - stored, 0)
            if more > _MAX_REPEATED:
                raise ValueError(f"a tensor of shape {tuple(item.shape)} has only {stored} bytes in the file")
        elif isinstance(item, Mapping):
            waiting += item.values()
        elif isinstance(item, list | tuple):
            waiting += item


def _refused(message: str) -> str:
    """Return why torch's weights-only reader refuses a file, without its advice to read the file unsafely."""
    if what := re.search(r"GLOBAL (\S+)", message):
        return f"it holds more than tensors and plain values ({what[1]})"
    if what := re.search(r"Unsupported operand (\d+)", message):
        return (
            f"it is no file of torch.save, or one with another pickle protocol than torch's default (instruction "
            f"{what[1]})"
        )
    return "it holds more than tensors and plain values"


def _damage(error: Exception) -> str:
    """Return the first line of an error, without torch's advice to read the file unsafely."""
    line = _first_line(error)
    if "TorchScript" in line:
        return "a TorchScript archive: save its state dict with torch.save"
    if "weights_only" in line or "legacy .tar" in line:
        return "a file of an old PyTorch: save its state dict with torch.save again"
    return line


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a flat dict of tensors.

    The safetensors library checks the size of the header and that the tensors fill the file without gaps or overlaps.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{path}: safetensors is not installed; pip install safetensors") from None
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
