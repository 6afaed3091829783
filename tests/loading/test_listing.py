"""Rank 0 lists the images and sends the lists: the other ranks touch no folder, and all have the same error."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.pictures import write_noise
from trex.config.schema import DataConfig
from trex.datasets.pack import write_pack
from trex.datasets.registry import load_splits
from trex.distributed import Ranks
from trex.errors import Interrupted, TrexError
from trex.interruption import StopRequest
from trex.loading.listing import list_splits

Said = tuple[list[str], list[str], int, int]


def listed(ranks: Ranks, name: str, data: DataConfig) -> Said:
    """Digests of the lists, folders that this process has read, sum of the first image, bytes of the labels."""
    folders: list[str] = []
    sys.addaudithook(lambda event, values: folders.append(str(values[0])) if event == "os.scandir" else None)
    splits = list_splits(name, data, ranks, StopRequest())
    first = splits["test"].read(0)
    return [split.digest for split in splits.values()], folders, int(first.sum()), splits["test"].labels.nbytes


@pytest.mark.parametrize("form", ["folder", "pack"])
def test_only_rank_0_reads_the_folders_and_all_have_the_same_lists(tmp_path: Path, on_ranks, form: str) -> None:
    write_noise(tmp_path / "mine", images=3, size=8)
    data = DataConfig(root=str(tmp_path))
    splits = load_splits("mine", data)
    if form == "pack":
        write_pack(splits, tmp_path / "mine.pack", lambda _: None)
    said: list[Said] = on_ranks(2, listed, "mine", data)
    of_data = [[folder for folder in folders if folder.startswith(f"{tmp_path}/mine")] for _, folders, *_ in said]
    assert (bool(of_data[0]), of_data[1]) == (form == "folder", [])
    for digests, _, first, size in said:
        assert digests == [split.digest for split in splits.values()]
        assert (first, size) == (int(splits["test"].read(0).sum()), 6 * 8)


def test_datasets_without_files_of_their_own_are_opened_by_every_rank(on_ranks) -> None:
    expected = [split.digest for split in load_splits("digits", DataConfig()).values()]
    assert [digests for digests, *_ in on_ranks(2, listed, "digits", DataConfig())] == [expected] * 2


def refused(ranks: Ranks, data: DataConfig, places: list[str]) -> tuple[str, int]:
    os.chdir(places[ranks.rank])
    with pytest.raises(TrexError) as caught:
        list_splits("mine", data, ranks, StopRequest())
    return str(caught.value), int(caught.value.exit_code)


@pytest.mark.parametrize(
    ("folder", "message"), [("mine", "mine: expected a folder val/ or test/ here"), ("x" * 300, "File name too long")]
)
def test_error_on_rank_0_is_the_error_of_all_ranks(tmp_path: Path, on_ranks, folder: str, message: str) -> None:
    (tmp_path / "mine/train").mkdir(parents=True)
    said = on_ranks(2, refused, DataConfig(folders={"mine": f"{tmp_path}/{folder}"}), [str(tmp_path)] * 2)
    assert said[0] == said[1]
    assert message in said[0][0]
    assert said[0][1] == 2


def test_rank_that_cannot_read_the_first_image_is_named_with_its_node_on_all_ranks(tmp_path: Path, on_ranks) -> None:
    """The folder is relative to the working folder, so the other rank does not have it: as on a node of its own."""
    write_noise(tmp_path / "here/mine", images=3, size=8)
    (tmp_path / "there").mkdir()
    said = on_ranks(2, refused, DataConfig(root="."), [str(tmp_path / "here"), str(tmp_path / "there")])
    assert said[0] == said[1]
    message, code = said[0]
    assert message.startswith(f"rank 1 on {os.uname().nodename}: mine/train/a/0.png: cannot be read")
    assert "not the same on all nodes" in message
    assert code == 2


def stopped(ranks: Ranks, data: DataConfig) -> tuple[str, int]:
    """What the error says, and how many folders were opened. The signal arrives when rank 0 opens the first one."""
    stop, opened = StopRequest().install(), []

    def note(event: str, _values: object) -> None:
        if event == "os.scandir":
            opened.append(event)
            signal.raise_signal(signal.SIGTERM)

    if ranks.is_main:
        sys.addaudithook(note)
    with pytest.raises(Interrupted) as caught:
        list_splits("mine", data, ranks, stop)
    return str(caught.value), len(opened)


def test_signal_while_rank_0_lists_ends_the_listing_and_stops_all_ranks(tmp_path: Path, on_ranks) -> None:
    write_noise(tmp_path / "mine", images=3, size=8)
    said = on_ranks(2, stopped, DataConfig(root=str(tmp_path)))
    assert ["before the work started" in text for text, _ in said] == [True, True]
    assert [opened for _, opened in said] == [1, 0]


def much(ranks: Ranks) -> bool:
    content = np.arange(25_000_000, dtype=np.uint32).tobytes()
    received = ranks.broadcast_bytes(content if ranks.is_main else b"")
    return received == content and ranks.broadcast_bytes(b"") == b""


def test_a_hundred_megabytes_arrive_on_all_ranks(on_ranks) -> None:
    assert on_ranks(2, much) == [True, True]
