"""The only place that writes tensors to disk and reads them: atomic, and without running code from a file."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from trex.errors import UserError
from trex.files import atomic_path


def save(value: Any, path: Path) -> None:
    """Write tensors and plain dicts, lists, strings and numbers to `path`, atomically and durably.

    Raises:
        OSError: if the disk did not take it.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save(value, temporary)
        except RuntimeError as error:  # PyTorch's own stream reports a full disk so
            raise OSError(f"cannot write {path}: {str(error).splitlines()[0]}") from error


def load(path: Path, allowed: tuple[type, ...] = ()) -> Any:
    """Read what `torch.save` wrote, to the CPU, weights only: the file cannot run code.

    Args:
        path: the file.
        allowed: inert classes that may appear besides tensors and plain containers, such as `argparse.Namespace`.

    Raises:
        UserError: if the file is missing, damaged, or holds anything else than that.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"{path}: refused, it holds more than tensors and plain values ({reason})") from error
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: not a readable PyTorch file ({str(error).splitlines()[0]})") from error
