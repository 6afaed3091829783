"""`trex data check` and `get`: every kind of dataset, and mistakes that change nothing."""

from __future__ import annotations

import functools
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jobs.cli import main
from tests.datasets.conftest import photo, put, write
from tests.datasets.test_torchvision import write_mnist
from trex.datasets import registry
from trex.datasets.imagefolder import read_image_folder
from trex.datasets.record import Archive, Counts, Dataset


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


@pytest.mark.parametrize("verb", ["check", "get"])
def test_dataset_that_is_made_without_files_has_nothing_to_check_or_get(
    home: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", verb, "digits"]) == 0
    assert "digits" in capsys.readouterr().out
    assert files(home) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "pets"], "pets"),
        (["check", "no_such"], "no_such"),
        (["check", "digits", "--processes", "0"], "--processes"),
        (["check", "pets", "data.rot=x"], "'root'"),
        (["list", "train.epochs=many"], "train.epochs"),
        (["list", "--cluster", "nowhere"], "nowhere"),
        (["get", "torchvision:CIFAR1O"], "CIFAR10"),
    ],
)
def test_mistake_is_an_error_and_creates_nothing(
    home: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", *words]) == 2
    assert said in capsys.readouterr().err
    assert files(home) == []


def test_complete_dataset_of_ones_own_passes_the_check(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(home / "data/birds", "train/crow/1.jpg", "val/crow/2.jpg")
    (home / "data/birds/train/crow/1.jpg").write_bytes(photo() + b"another file")
    assert main(["data", "check", "birds", "--processes", "1"]) == 0
    shown = capsys.readouterr().out
    assert ["counts: ok" in shown, "unreadable images: 0" in shown, "both splits" in shown] == [True, True, False]


@pytest.mark.parametrize(
    ("content", "problem"), [(b"", "empty"), (b"nothing", "7 bytes"), (photo()[:-300], "truncated")]
)
def test_image_that_cannot_be_read_is_named_with_the_reason(
    home: Path, content: bytes, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(home / "data/birds", "train/crow/1.jpg", "val/crow/2.jpg")
    (home / "data/birds/val/crow/3.jpg").write_bytes(content)
    assert main(["data", "check", "birds", "--processes", "1"]) == 2
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if line.startswith("unreadable: ")]
    assert ["val/crow/3.jpg" in line, problem in line] == [True, True]
    assert "unreadable images: 1" in shown


def test_folder_of_a_cluster_file_is_looked_in_unless_the_command_says_another(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(home / "shared/birds", "train/crow/1.jpg", "val/crow/2.jpg")
    write(home / "site.yaml", "kind: local", f"data_root: {home}/shared")
    assert main(["data", "list", "--cluster", "site.yaml"]) == 0
    assert f"{home}/shared/birds" in capsys.readouterr().out
    assert main(["data", "list", "--cluster", "site.yaml", "data.root=elsewhere"]) == 0
    assert "birds" not in capsys.readouterr().out


def test_dataset_of_torchvision_that_is_there_is_not_downloaded_again(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mnist(home / "data")
    before = files(home)
    assert main(["data", "get", "torchvision:FashionMNIST"]) == 0
    assert "1000 + 797" in capsys.readouterr().err
    assert files(home) == before


def test_dataset_of_ones_own_cannot_be_got_and_its_folder_is_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(home / "data/birds", "train/crow/1.jpg", "val/crow/2.jpg")
    assert main(["data", "get", "birds"]) == 2
    assert f"{home}/data/birds" in capsys.readouterr().out


@pytest.fixture
def site(home: Path, monkeypatch: pytest.MonkeyPatch):
    """A dataset `zoo` whose archive is on a real HTTP server here; gives the folder of the site."""
    folder = home / "site"
    folder.mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    archive = Archive(f"http://127.0.0.1:{server.server_port}/zoo.zip")
    zoo = Dataset("zoo", read_image_folder, Counts(classes=1, trainval=1, test=1), archives=(archive,))
    monkeypatch.setattr(registry, "known", lambda: {"zoo": zoo})
    yield folder
    server.shutdown()
    server.server_close()


def pack(site: Path, *names: str) -> None:
    with zipfile.ZipFile(site / "zoo.zip", "w") as archive:
        for name in names:
            archive.writestr(name, photo())


def test_archives_are_downloaded_unpacked_and_counted_and_not_fetched_twice(
    site: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(site, "train/ape/1.jpg", "val/ape/2.jpg")
    assert main(["data", "get", "zoo"]) == 0
    assert f"1 + 1 images in {home}/data/zoo" in capsys.readouterr().err
    (site / "zoo.zip").unlink()
    assert main(["data", "get", "zoo"]) == 0


def test_archive_with_other_counts_is_an_error_after_the_download(
    site: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(site, "train/ape/1.jpg", "train/ape/2.jpg", "val/ape/3.jpg")
    assert main(["data", "get", "zoo"]) == 2
    assert "2 trainval" in capsys.readouterr().err


def test_archive_that_the_site_does_not_have_is_an_error_with_its_address(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "get", "zoo"]) == 1
    said = capsys.readouterr().err
    assert ["/zoo.zip" in said, "404" in said] == [True, True]
