"""Write tensors to disk atomically, and read them without running code from the file.

A path that ends in `.safetensors` is a safetensors file; any other path is a PyTorch file.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trex.errors import UserError
from trex.files import atomic_path

SAFETENSORS = ".safetensors"


def save(value: Any, path: Path) -> None:
    """Write tensors and plain dicts, lists, strings and numbers to `path`, atomically and durably.

    For a safetensors file, `value` must be a flat dict of contiguous tensors.

    Raises:
        OSError: if the file cannot be written.
    """
    with atomic_path(path) as temporary:
        if path.suffix == SAFETENSORS:
            from safetensors.torch import save_file

            save_file(value, temporary, metadata={"format": "pt"})
            return
        try:
            torch.save(value, temporary)
        except RuntimeError as error:  # PyTorch's stream reports a full disk this way
            raise OSError(f"cannot write {path}: {_first_line(error)}") from error


def load(path: Path, allowed: tuple[type, ...] = ()) -> Any:
    """Read a file written by `save`, `torch.save` or safetensors.

    Tensors are loaded to the CPU. Only weights and plain values are read, so the file cannot run code.

    Args:
        path: the file.
        allowed: classes that the file may contain besides tensors and plain containers. They must only hold data, as
            `argparse.Namespace` does.

    Raises:
        UserError: if the file is missing, damaged, or holds anything else.
    """
    if path.suffix == SAFETENSORS:
        return _load_safetensors(path)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        what = re.search(r"GLOBAL (\S+)", str(error))
        reason = what[1] if what else str(error).split("\n", 1)[0]
        raise UserError(f"{path}: refused: it holds more than tensors and plain values ({reason})") from error
    except Exception as error:  # a damaged pickle or archive can raise almost any exception
        raise UserError(f"{path}: not a readable PyTorch file ({_first_line(error)})") from error


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
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
