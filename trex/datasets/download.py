"""Downloads official archives, verifies them and unpacks them.

An interrupted download continues where it stopped, and an archive cannot write outside the dataset's folder.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import lzma
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from trex.datasets.archives import DAMAGED, TarEntry, inner_path, tar_entries, zip_entries
from trex.datasets.record import Archive
from trex.errors import TrexError, UserError
from trex.files import TEMPORARY, sync
from trex.stand_ins import stand_in_at

_BLOCK = 1 << 20
#: An archive may unpack to this many times its size. Images hardly compress; a decompression bomb expands by thousands.
_MAX_RATIO = 20
#: Bytes that any archive may unpack to in addition.
_ALLOWANCE = 64 << 20
_ENDINGS = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zip")  #: of names of archives
#: What the readers of archives raise for damaged ones, a wrong CRC and kinds of compression that they do not know.
_DAMAGED = (*DAMAGED, zlib.error, lzma.LZMAError, gzip.BadGzipFile)

Say = Callable[[str], None]  #: prints one line of progress


def get(archives: tuple[Archive, ...], folder: Path, say: Say) -> None:
    """Download, verify and unpack archives into `folder`.

    Archives that were unpacked before are skipped. An interrupted download continues where it stopped.

    Raises:
        UserError: if an archive's digest is not the official one, or an entry would be written outside the folder.
        TrexError: if the site does not answer.
    """
    downloads = folder / ".downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        done = downloads / f"{archive.name}.done"
        if done.exists():
            say(f"{archive.name}: already downloaded and unpacked")
            continue
        path = fetch(archive, downloads, say)
        say(f"{archive.name}: unpacking")
        unpack(path, folder / archive.into)
        done.touch()
        path.unlink()


def fetch(archive: Archive, folder: Path, say: Say) -> Path:
    """Download one archive into `folder`, or continue an interrupted download. Returns the path of the verified file.

    Raises:
        UserError: if the digest is not the official one; the file is deleted.
        TrexError: if the site does not answer.
    """
    target, partial = folder / archive.name, folder / f"{archive.name}.part"
    if not target.exists():
        for attempt in range(1, 6):
            try:
                _download(archive.url, partial, say)
                break
            except (urllib.error.URLError, OSError, EOFError) as error:
                if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                    raise TrexError(f"{archive.url}: the server answers {error.code} {error.reason}") from error
                if attempt == 5:
                    raise TrexError(f"{archive.url}: {error}. The partial download is kept: try again later") from error
                say(f"{archive.name}: {error}; continuing")
        partial.rename(target)
    md5, sha256 = _digests(target)
    if archive.md5 is not None and md5 != archive.md5:
        target.unlink()
        raise UserError(
            f"{archive.url}: MD5 is {md5}, expected {archive.md5}: this is not the official file, so it was deleted. "
            f"Try again; if that fails too, the site offers a different file."
        )
    checked = "MD5 matches the official one" if archive.md5 else "no official digest to compare with"
    say(f"{archive.name}: {target.stat().st_size} bytes, SHA-256 {sha256}; {checked}")
    return target


def _download(url: str, partial: Path, say: Say) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    try:
        answer = urllib.request.urlopen(request, timeout=60)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the file is already complete
            return
        raise
    with closing(answer), partial.open("ab") as file:
        if answer.status != 206:  # the site sends the complete file again
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
                say(f"{partial.stem}: {have >> 20} MiB{f' of {size >> 20}' if size else ''}")
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
    """Unpack `archive` into `folder`, completely or not at all. A file that is not an archive is copied there.

    Raises:
        UserError: if the archive is damaged or encrypted, an entry is a link or a device, a path points outside the
            folder, or the content is far larger than an archive of images can be. `folder` is then unchanged.
        OSError: if the content cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder))
    try:
        if found := stand_in_at(archive):
            raise UserError(f"{archive}: {found}")
        if (tar := _opened_tar(archive)) is not None:
            with tar:
                left = _write_entries(archive, _tar_entries(archive, tar), temporary)
                _take(archive, tar.fileobj, left, None)  # to the end, where the compression's checksum is compared
        elif zipfile.is_zipfile(archive):
            _write_entries(archive, _zip_entries(archive), temporary)
        elif archive.name.lower().endswith(_ENDINGS):
            raise UserError(f"{archive}: damaged (no {archive.suffix} archive). Delete it and download it again")
        else:
            shutil.copyfile(archive, temporary / archive.name)
        for path in sorted(temporary.iterdir()):
            target = folder / path.name
            if target.is_dir() and path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True)
            else:
                path.replace(target)
        sync(folder)
    except (OSError, *_DAMAGED) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the file system's
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{archive}: damaged ({reason}). Delete it and download it again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


Entry = tuple[str, IO[bytes]]


def _opened_tar(archive: Path) -> tarfile.TarFile | None:
    """The archive, opened; None if it is no tar archive."""
    try:
        return tarfile.open(archive, tarinfo=TarEntry)
    except tarfile.TarError:
        return None


def _tar_entries(archive: Path, tar: tarfile.TarFile) -> Iterator[Entry]:
    for member in tar_entries(archive, tar):
        if not member.isdir():
            content = tar.extractfile(member)
            assert content is not None
            yield member.name, content


def _zip_entries(archive: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as opened:
        for info in zip_entries(archive, opened):
            if not info.is_dir():
                with opened.open(info) as content:
                    yield info.filename, content


def _write_entries(archive: Path, entries: Iterator[Entry], folder: Path) -> int:
    """Write all entries. Returns how many further bytes the archive may unpack to."""
    allowed = _MAX_RATIO * archive.stat().st_size + _ALLOWANCE
    for name, content in entries:
        target = folder / inner_path(archive, name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = target.open("xb")
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{archive}: contains {name!r} twice, or inside another file: refused") from error
        with file:
            allowed = _take(archive, content, allowed, file)
    return allowed


def _take(archive: Path, content: Any, allowed: int, file: IO[bytes] | None) -> int:
    """Copy at most `allowed` bytes to `file`, or read them only. Returns how many of these are left."""
    while block := content.read(_BLOCK):
        allowed -= len(block)
        if allowed < 0:
            raise UserError(f"{archive}: unpacks to more than {_MAX_RATIO} times its size: refused")
        if file is not None:
            file.write(block)
    return allowed
