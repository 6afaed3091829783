"""The values that Slurm's programs print."""

from __future__ import annotations

import pytest

from jobs.slurm.rules import formats


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-00:00:00", 86400), ("7-12:30:00", 649800), ("00:10:00", 600), ("30", 1800), ("UNLIMITED", None),
        ("INFINITE", None), ("", None), ("N/A", None), ("Partition_Limit", None),
    ],
)  # fmt: skip
def test_time_limit(text: str, seconds: int | None) -> None:
    assert formats.time_limit(text) == seconds


@pytest.mark.parametrize(
    ("text", "megabytes"),
    [
        ("20000", 20000),
        ("20000M", 20000),
        ("10G", 10240),
        ("1.5T", 1572864),
        ("512K", 0.5),
        ("UNLIMITED", None),
        ("x", None),
    ],
)
def test_memory(text: str, megabytes: float | None) -> None:
    assert formats.megabytes(text) == megabytes


def test_numbers_and_names() -> None:
    assert [formats.number(text) for text in ("12", "4K", "UNLIMITED", "", "1-4", "-1")] == [12, 4096, *[None] * 4]
    assert [formats.names(text) for text in ("ALL", "all", "(null)", "", "N/A")] == [None] * 5
    assert formats.names("a,b") == {"a", "b"}


def test_tres_keeps_what_is_limited() -> None:
    text = "cpu=32,mem=80G,gres/gpu=4,gres/gpu:a100=2,fs/disk=x,billing=,energy"
    assert formats.tres(text) == {"cpu": 32, "mem": 81920, "gres/gpu": 4, "gres/gpu:a100": 2}
    assert formats.tres("") == {}


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("gpu:4", {"": 4}), ("gpu:a100:4(S:0-1)", {"a100": 4}), ("gpu:a100:2,gpu:v100:2,nic:1", {"a100": 2, "v100": 2}),
        ("gpu:a100:4(S:0,1),gpu:1", {"a100": 4, "": 1}), ("gpu", {"": 1}), ("gpu:a100", {"a100": 1}), ("(null)", {}),
        ("gres/gpu:a100:3", {"a100": 3}), ("gpu:a:many", {}), ("gpus_of_mine:3", {}),
    ],
)  # fmt: skip
def test_gpus(text: str, gpus: dict[str, int]) -> None:
    assert formats.gpus(text) == gpus


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("a100", True), ("h100", False), ("h100|a100", True), ("a100&ib", True), ("ib,a100", True),
        ("a100&h100", False),
        ("h100&ib|a100", True), ("[a100|h100]", True), ("a100*2", None), ("[a*2&b*4]", None), ("(a|b)&c", None),
    ],
)  # fmt: skip
def test_features(wanted: str, found: bool | None) -> None:
    assert formats.has_features(wanted, frozenset({"a100", "ib"})) is found


def test_words_without_a_key_are_left_out() -> None:
    assert formats.pairs("NodeName=n1 OS=Linux 6.1 #1 SMP @0 A=b=c") == {"NodeName": "n1", "OS": "Linux", "A": "b=c"}
