"""The program that measures GPUs, without a GPU: what it does then, and its parts that need none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tools.bench import gpu
from tools.bench.gpu import Figure, attempted, lay_out, median_seconds, page, step


def test_without_a_gpu_it_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    assert gpu.main() == gpu.NO_GPU
    assert capsys.readouterr().err == "not run: no CUDA device\n"
    assert list(tmp_path.iterdir()) == []


def test_page_names_the_card_and_has_a_line_per_figure() -> None:
    text = page("cuda: NVIDIA X", {"CUDA": "13.0"}, [Figure("step", "70.0 ms", "peak memory 9.1 GB")])
    assert "cuda: NVIDIA X; CUDA 13.0." in text
    assert text.endswith("| step | 70.0 ms | peak memory 9.1 GB |\n")


def test_part_that_fails_is_a_line_and_keeps_what_it_measured() -> None:
    def part() -> Iterator[Figure]:
        yield Figure("first", "1 ms")
        raise RuntimeError("CUDA out of memory\nmore")

    assert list(attempted(part)) == [Figure("first", "1 ms"), Figure("a measurement failed", "–", "CUDA out of memory")]


def test_calls_are_timed_after_the_warm_up() -> None:
    calls: list[None] = []
    assert median_seconds(lambda: calls.append(None), torch.device("cpu"), warm_up=2, groups=3) < 1
    assert len(calls) == 2 + 3 * 4


def test_images_are_divided_into_classes(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.jpg" for number in range(5)]
    for file in files:
        file.write_bytes(b"")
    lay_out(files, tmp_path / "photos", copies=2)
    assert sorted(path.name for path in (tmp_path / "photos/train/class0").iterdir()) == [
        "0-0.jpg", "0-1.jpg", "4-0.jpg", "4-1.jpg",
    ]  # fmt: skip
    assert len(list((tmp_path / "photos/val").glob("*/*"))) == 5


@pytest.mark.slow
def test_step_of_a_recipe_is_measured() -> None:
    small = ("train.batch_size=2", "train.precision=off", "model.encoder=resnet18", "crops.global_size=32",
             "crops.local_size=32", "crops.local_count=1")  # fmt: skip
    figure = step("step", "trex_star", torch.device("cpu"), *small)
    assert figure.what == "step"
    assert figure.value.endswith("images/s")
