"""Downloads from a real web server: interrupted ones continue and are verified; hostile archives change nothing."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import random
import shutil
import stat
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.datasets.conftest import photo
from trex.datasets import archives, download, registry
from trex.datasets.download import fetch, get, unpack
from trex.datasets.record import Archive
from trex.errors import TrexError, UserError


class Site:
    """The files of a server, where its connections break, and the requests it got."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut_after: list[int] = []  #: bytes that each of the next connections sends before it breaks
        self.ranges = True  #: whether it can continue a download
        self.asked: list[str | None] = []  #: the Range header of each request


class Handler(BaseHTTPRequestHandler):
    def __init__(self, site: Site, *arguments: object) -> None:
        self.site = site
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.site.asked.append(wanted)
        content = self.site.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.site.ranges else 0
        if first and first >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if wanted and self.site.ranges else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        cut = self.site.cut_after.pop(0) if self.site.cut_after else len(content)
        self.wfile.write(content[first : first + cut])

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[tuple[Site, str]]:
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, site))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield site, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def tar_of(*entries: tuple[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def ignore(_text: str) -> None:
    pass


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_download_continues_and_is_verified_and_unpacked(tmp_path: Path, site, ranges: bool) -> None:
    server, url = site
    content = tar_of(("dtd/images/a.jpg", photo()), ("dtd/labels/train1.txt", b"a.jpg\n"))
    server.files["/dtd.tar.gz"] = content
    server.ranges, server.cut_after = ranges, [100, 50]
    archive = Archive(f"{url}/dtd.tar.gz", hashlib.md5(content).hexdigest())
    get((archive,), tmp_path / "dtd", ignore)
    assert (tmp_path / "dtd/dtd/images/a.jpg").read_bytes() == photo()
    assert server.asked == [None, "bytes=100-", "bytes=150-" if ranges else "bytes=50-"]
    get((archive,), tmp_path / "dtd", ignore)
    assert len(server.asked) == 3, "an archive that was unpacked is not downloaded again"
    assert sorted(path.name for path in (tmp_path / "dtd").iterdir()) == [".downloads", "dtd"]


def test_download_continues_the_partial_file_of_a_killed_one(tmp_path: Path, site) -> None:
    server, url = site
    server.files["/x.mat"] = content = bytes(range(256)) * 40
    (tmp_path / "x.mat.part").write_bytes(content[:5000])
    assert fetch(Archive(f"{url}/x.mat"), tmp_path, ignore).read_bytes() == content
    assert server.asked == ["bytes=5000-"]


def test_complete_download_that_was_not_renamed_yet_is_not_downloaded_again(tmp_path: Path, site) -> None:
    server, url = site
    server.files["/x.mat"] = content = b"abc" * 100
    (tmp_path / "x.mat.part").write_bytes(content)
    assert fetch(Archive(f"{url}/x.mat"), tmp_path, ignore).read_bytes() == content


def test_file_with_another_digest_than_the_official_is_deleted_with_an_error(tmp_path: Path, site) -> None:
    server, url = site
    server.files["/x.mat"] = b"something else"
    with pytest.raises(UserError, match=r"MD5 is .*, expected 0{32}: this is not the official file"):
        fetch(Archive(f"{url}/x.mat", "0" * 32), tmp_path, ignore)
    assert list(tmp_path.iterdir()) == []


def test_error_of_a_site_without_the_file_names_the_address(tmp_path: Path, site) -> None:
    with pytest.raises(TrexError, match=r"/none.zip: the server answers 404"):
        fetch(Archive(f"{site[1]}/none.zip"), tmp_path, ignore)


def test_partial_download_is_kept_when_the_connection_keeps_breaking(tmp_path: Path, site) -> None:
    server, url = site
    server.files["/x.mat"] = b"x" * 1000
    server.cut_after = [10] * 5
    with pytest.raises(TrexError, match="partial download is kept: try again later"):
        fetch(Archive(f"{url}/x.mat"), tmp_path, ignore)
    assert (tmp_path / "x.mat.part").stat().st_size == 50


def test_official_addresses_use_https_and_digests_have_full_length() -> None:
    for dataset in registry.known().values():
        for archive in dataset.archives:
            assert archive.url.startswith("https://")
            assert archive.md5 is None or len(archive.md5) == 32


def tar_with(info: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(info)
    return out.getvalue()


def link(kind: bytes, target: str) -> bytes:
    info = tarfile.TarInfo("images/x")
    info.type, info.linkname = kind, target
    return tar_with(info)


def zip_of(name: str, content: bytes, mode: int = 0) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        made.writestr(info, content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def encrypted(archive: bytes) -> bytes:
    """The archive with the flag of an encrypted entry, in both of its headers."""
    changed = bytearray(archive)
    changed[6] |= 1
    changed[archive.index(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


def flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 0x55
    return bytes(changed)


def long_header(size: int) -> bytes:
    """A tar archive whose first entry is an extended header of `size` bytes, without its content."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, size
    return info.tobuf(tarfile.USTAR_FORMAT) + bytes(4096)


HOSTILE = {
    "tar, parent": tar_of(("a/../../escaped", b"x")),
    "tar, absolute": tar_of(("/escaped", b"x")),
    "tar, symbolic link": link(tarfile.SYMTYPE, "/etc/passwd"),
    "tar, hard link": link(tarfile.LNKTYPE, "../../escaped"),
    "tar, device": link(tarfile.CHRTYPE, ""),
    "tar, same name twice": tar_of(("a", b"x"), ("a", b"y")),
    "zip, parent": zip_of("../escaped", b"x"),
    "zip, backslash": zip_of("..\\escaped", b"x"),
    "zip, symbolic link": zip_of("x", b"/etc/passwd", stat.S_IFLNK | 0o777),
    "zip, encrypted": encrypted(zip_of("a.jpg", photo())),
    "zip, wrong CRC": zip_of("a.jpg", photo()).replace(zlib.crc32(photo()).to_bytes(4, "little"), b"abcd"),
    "zip, unknown compression": zip_of("a.jpg", photo()).replace(b"\x08\x00", b"\x63\x00"),
    "zip, damaged content": flipped(zip_of("a.jpg", photo()), 100),
    "zip, no name": zip_of("", b"x"),
    "tar.gz, wrong CRC": flipped(tar_of(("a.jpg", photo())), -8),
    "tar.gz, cut": tar_of(("a.jpg", photo()))[:-20],
    "tar.gz, damaged": flipped(tar_of(("a.jpg", photo()), ("b.jpg", photo())), 300),
    "tar.bz2, damaged": flipped(bz2.compress(gzip.decompress(tar_of(("a.jpg", photo())))), 300),
    "tar.xz, damaged": flipped(lzma.compress(gzip.decompress(tar_of(("a.jpg", photo())))), 300),
    "tar.gz, header of a gigabyte": gzip.compress(long_header(1 << 30)),
    "tar, damaged": tar_of(("a", b"x" * 9999), ("b", photo()))[:-40],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_or_damaged_archive_changes_nothing(tmp_path: Path, name: str) -> None:
    path = tmp_path / "in" / f"archive.{name.partition(',')[0]}"
    path.parent.mkdir()
    path.write_bytes(HOSTILE[name])
    with pytest.raises(UserError, match=rf"{path}: ") as error:
        unpack(path, tmp_path / "in" / "out")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "in" / "out").iterdir()) == []
    assert sorted(p.name for p in tmp_path.rglob("*")) == [path.name, "in", "out"]


def test_header_that_would_be_read_into_memory_as_a_whole_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(HOSTILE["tar.gz, header of a gigabyte"])
    with pytest.raises(UserError, match=r"a\.tar\.gz: an entry has a header of 1073741824 bytes"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


def test_archive_with_more_entries_than_any_dataset_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_MAX_ENTRIES", 3)
    (tmp_path / "many.tar").write_bytes(tar_of(*((f"{n}", b"") for n in range(4))))
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as made:
        for number in range(4):
            made.mkdir(f"{number}")
    for name in ("many.tar", "many.zip"):
        with pytest.raises(UserError, match=rf"{name}: has more than 3 entries: refused"):
            unpack(tmp_path / name, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_randomly_damaged_archive_is_unpacked_or_refused_with_its_name(tmp_path: Path) -> None:
    chance, out, endings = random.Random(0), tmp_path / "out", ("tar", "tar.gz", "tar.xz", "tar.bz2", "zip")
    tar = gzip.decompress(tar_of(("a/1.jpg", photo()[:600]), ("a/2.jpg", photo()[:300])))
    whole = [tar, gzip.compress(tar), lzma.compress(tar), bz2.compress(tar), zip_of("a/1.jpg", photo()[:600])]
    outcomes = {"unpacked": 0, "refused": 0}
    for number in range(1500):
        content = bytearray(whole[number % len(whole)])
        for _ in range(chance.choice([1, 1, 2, 6])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        if chance.random() < 0.1:
            del content[chance.randrange(len(content)) :]
        path = tmp_path / f"damaged.{endings[number % len(whole)]}"
        path.write_bytes(content)
        start = time.process_time()
        try:
            unpack(path, out)
            outcomes["unpacked"] += 1
        except UserError as error:
            assert str(path) in str(error)
            outcomes["refused"] += 1
            assert list(out.iterdir()) == []
        assert time.process_time() - start < 2, number
        path.unlink()
        assert list(tmp_path.iterdir()) == [out]
        shutil.rmtree(out)
    assert min(outcomes.values()) > 100, outcomes


def test_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_ALLOWANCE", 1 << 20)
    (tmp_path / "bomb.zip").write_bytes(zip_of("zeros", bytes(64 << 20)))
    with pytest.raises(UserError, match="unpacks to more than 20 times its size"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
