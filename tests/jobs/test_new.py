"""`trex new` writes a recipe that fits a folder of images, and that the other commands accept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.cli import main
from jobs.plan.own_images import Images, recipe
from trex.config import Config, load


@pytest.fixture
def birds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose path has a space, with two classes of small images; the working folder is beside it."""
    folder, chance = tmp_path / "my birds", np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 10)):
        for kind in ("crow", "owl"):
            (folder / split / kind).mkdir(parents=True)
            for number in range(count):
                pixels = chance.integers(0, 255, (70, 90, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / kind / f"{number}.png")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_recipe_for_few_small_images(birds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "birds", "../my birds"]) == 0
    written = Path("configs/birds.yaml").read_text(encoding="utf-8")
    assert written == capsys.readouterr().out
    assert "2 classes,\n# 80 training images and 20 test images, about 70 pixels high" in written
    config = load(Path("configs/birds.yaml"), Config)
    assert config.data.folders == {"birds": str(birds)}
    assert (config.data.dataset, config.extract.datasets) == ("birds", ("birds",))
    assert (config.crops.global_size, config.crops.local_size, config.extract.crop) == (64, 32, 64)
    assert config.train.batch_size <= 80 // 8
    assert config.model.encoder == "resnet18"


@pytest.mark.slow
def test_other_commands_accept_the_recipe(birds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["new", "birds", str(birds)])
    assert main(["check", "birds", "--cluster", "local", "data.workers=0"]) == 0, capsys.readouterr().out


def test_large_images_keep_the_sizes_of_the_method() -> None:
    text = recipe("flowers_2", Images(Path("/datasets/f"), classes=10, train=300_000, test=1000, side=375))
    assert "crops:" not in text
    assert "model:" not in text
    assert "epochs: 100 " in text
    assert "batch_size: 256 " in text


def test_name_of_an_official_dataset_does_not_stand_for_it() -> None:
    text = recipe("pets", Images(Path("/datasets/mine"), classes=10, train=300_000, test=1000, side=375))
    assert "  dataset: pets_images\n" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["birds", "../nothing"], "expected a folder with train/ and val/"),
        (["birds", ".."], "expected a folder train/ or trainval/ here"),
        (["a b", "../my birds"], "'a b': expected a name"),
        (["there", "../my birds"], "exists already"),
    ],
)
def test_mistakes(birds: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str) -> None:
    Path("configs").mkdir()
    Path("configs/there.yaml").write_text("name: there\n")
    assert main(["new", *words]) == 2
    assert expected in capsys.readouterr().err
    assert [path.name for path in Path("configs").iterdir()] == ["there.yaml"]
    assert Path("configs/there.yaml").read_text() == "name: there\n"
