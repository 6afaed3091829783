"""Official archives: fetched so that a broken connection costs nothing, verified, unpacked so that nothing escapes."""

from __future__ import annotations

import hashlib
import shutil
import stat
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO

from trex.datasets.record import Archive
from trex.errors import TrexError, UserError
from trex.files import TEMPORARY, sync

_BLOCK = 1 << 20
#: An archive may unpack to so many times its size: images hardly shrink; a bomb does by thousands.
_MAX_RATIO = 20
_ALLOWANCE = 64 << 20

Say = Callable[[str], None]


def get(archives: tuple[Archive, ...], folder: Path, say: Say) -> None:
    """Fetch, verify and unpack archives into `folder`. What is there already is not fetched again; a download that was
    cut off continues where it was.

    Raises:
        UserError: if the content is not what the official digest says, or would leave the folder.
        TrexError: if the site does not answer.
    """
    downloads = folder / ".downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        done = downloads / f"{archive.name}.done"
        if done.exists():
            say(f"{archive.name}: is already there")
            continue
        path = fetch(archive, downloads, say)
        say(f"{archive.name}: unpacking")
        unpack(path, folder / archive.into)
        done.touch()
        path.unlink()


def fetch(archive: Archive, folder: Path, say: Say) -> Path:
    """Download into `folder`, continuing one that was cut off; returns the verified file."""
    target, part = folder / archive.name, folder / f"{archive.name}.part"
    if not target.exists():
        for attempt in range(1, 6):
            try:
                _download(archive.url, part, say)
                break
            except (urllib.error.URLError, OSError, EOFError) as error:
                if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                    raise TrexError(f"{archive.url}: the server answers {error.code} {error.reason}") from error
                if attempt == 5:
                    raise TrexError(f"{archive.url}: {error}; what was downloaded is kept, try again later") from error
                say(f"{archive.name}: {error}; continuing")
        part.rename(target)
    md5, sha256 = _digests(target)
    if archive.md5 is not None and md5 != archive.md5:
        target.unlink()
        raise UserError(
            f"{archive.url}: MD5 is {md5}, expected {archive.md5}: not the official file, deleted. Try again; if "
            f"it happens again, the site offers another file."
        )
    checked = "MD5 is the official one" if archive.md5 else "there is no official digest to compare with"
    say(f"{archive.name}: {target.stat().st_size} bytes, SHA-256 {sha256}; {checked}")
    return target


def _download(url: str, part: Path, say: Say) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    try:
        answer = urllib.request.urlopen(request, timeout=60)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send
            return
        raise
    with closing(answer), part.open("ab") as file:
        if answer.status != 206:  # the site cannot continue in the middle
            file.truncate(0)
            have = 0
        left = answer.headers.get("Content-Length")
        size = have + int(left) if left else None
        shown = have
        while block := answer.read(_BLOCK):
            file.write(block)
            have += len(block)
            if have - shown >= 64 * _BLOCK:
                shown = have
                say(f"{part.stem}: {have >> 20} MiB{f' of {size >> 20}' if size else ''}")
    if size is not None and have != size:
        raise EOFError(f"the connection ended after {have} of {size} bytes")


def _digests(path: Path) -> tuple[str, str]:
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            md5.update(block)
            sha256.update(block)
    return md5.hexdigest(), sha256.hexdigest()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack into `folder`, all or nothing. A file that is no archive is put there as it is.

    Raises:
        UserError: if an entry is a link or a device, has a name that leaves the folder, or the content is far larger
            than such an archive's can be; nothing has changed then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder))
    try:
        if tarfile.is_tarfile(archive):
            _write_entries(archive, _tar_entries(archive), temporary)
        elif zipfile.is_zipfile(archive):
            _write_entries(archive, _zip_entries(archive), temporary)
        else:
            shutil.copyfile(archive, temporary / archive.name)
        for path in sorted(temporary.iterdir()):
            target = folder / path.name
            if target.is_dir() and path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True)
            else:
                path.replace(target)
        sync(folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{archive}: damaged ({error}); delete it and get it again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


Entry = tuple[str, IO[bytes]]


def _tar_entries(archive: Path) -> Iterator[Entry]:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isdir():
                continue
            if not member.isreg():
                raise UserError(f"{archive}: holds a link or a device, {member.name!r}: refused")
            content = tar.extractfile(member)
            assert content is not None
            yield member.name, content


def _zip_entries(archive: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if info.is_dir():
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise UserError(f"{archive}: holds a link or a device, {info.filename!r}: refused")
            with opened.open(info) as content:
                yield info.filename, content


def _write_entries(archive: Path, entries: Iterator[Entry], folder: Path) -> None:
    allowed = _MAX_RATIO * archive.stat().st_size + _ALLOWANCE
    for name, content in entries:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
            raise UserError(f"{archive}: holds the path {name!r}, outside of its folder: refused")
        target = folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = target.open("xb")
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{archive}: holds {name!r} twice, or within another file: refused") from error
        with file:
            while block := content.read(_BLOCK):
                allowed -= len(block)
                if allowed < 0:
                    raise UserError(f"{archive}: unpacks to more than {_MAX_RATIO} times its size: refused")
                file.write(block)
