"""How an extraction works inside: one loader, the encoder's batches as ever, rows that go to the disk once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.disks import small_disk
from tests.features.conftest import make_features
from tests.features.test_damaged_files import MADE_BY
from tests.stopping import StopAfter
from trex.config import Config, load
from trex.distributed import Ranks
from trex.errors import Interrupted, UserError
from trex.features import extract as extraction
from trex.features import store
from trex.features.blocks import Blocks, Writer
from trex.features.encoding import Encoding
from trex.features.source import Source, make_source
from trex.features.store import Contents, complete_rows, open_features, reserve_rows
from trex.images.evaluation import evaluation_image
from trex.interruption import StopRequest
from trex.loading import evaluation
from trex.loading.listing import list_splits
from trex.loading.shared_memory import PART, part_bytes
from trex.records.run_dir import RunDir


def digests(run: RunDir) -> list[str]:
    return [open_features(run.features("photos", split)).digest for split in ("trainval", "test")]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_features_have_the_bits_of_a_plain_loop_over_the_encoders_batches(setup, workers: int) -> None:
    """The encoder gets whole batches, though the loader processes make parts of them."""
    run, config = setup("run", "extract.batch_size=40", f"data.workers={workers}")
    assert PART < 40
    make_features(run, config)
    source = make_source(run, config, Ranks())
    split = list_splits("photos", config.data, Ranks(), StopRequest())["trainval"]
    images = [evaluation_image(split.read(i), source.preprocessing.geometry) for i in range(len(split))]
    expected = [
        source.features(torch.from_numpy(np.stack(images[begin : begin + 40]))) for begin in range(0, len(images), 40)
    ]
    assert np.array_equal(open_features(run.features("photos", "trainval")).features, torch.cat(expected).numpy())


def test_all_blocks_of_a_split_have_one_loader(setup, monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = [], evaluation.DataLoader
    monkeypatch.setattr(
        evaluation, "DataLoader", lambda *args, **settings: made.append(real(*args, **settings)) or made[-1]
    )
    make_features(*setup("run"))
    assert len(made) == 2, "one per split; trainval has six blocks"


def test_a_loader_process_makes_a_part_of_a_batch_at_once() -> None:
    assert part_bytes(256, 224) == PART * 3 * 224**2
    assert part_bytes(8, 224) == 8 * 3 * 224**2


def interrupted(setup, name: str, checks: int = 5) -> tuple[RunDir, Config, Path]:
    """A run that was stopped after some blocks, and the file with their rows."""
    run, config = setup(name)
    with pytest.raises(Interrupted):
        make_features(run, config, StopAfter(checks))
    (rows,) = run.root.glob("features/photos/.*/rows-*")
    return run, config, rows


def test_rows_are_written_into_the_file_that_becomes_the_feature_file(setup) -> None:
    run, config, rows = interrupted(setup, "run")
    blocks = list(rows.parent.glob("*.npy"))
    assert blocks
    assert all(path.stat().st_size < 512 for path in blocks), "eight indices, and no rows"
    before = rows.stat().st_ino
    make_features(run, config)
    assert run.features("photos", "trainval").stat().st_ino == before
    assert not rows.parent.exists()


def test_blocks_whose_rows_were_deleted_are_computed_again(setup) -> None:
    whole, same = setup("whole")
    make_features(whole, same)
    run, config, rows = interrupted(setup, "run")
    rows.unlink()
    make_features(run, config)
    assert digests(run) == digests(whole)


class OnTwoMachines(Ranks):
    def count_here(self) -> int:
        return 0


def test_ranks_of_several_machines_write_no_common_file_and_get_the_same_content(setup) -> None:
    whole, same = setup("whole")
    make_features(whole, same)
    run, config = setup("run")
    with pytest.raises(Interrupted):
        extraction.extract(run, config, "photos", OnTwoMachines(), StopAfter(5))
    folder = next(run.root.glob("features/photos/.*"))
    assert [path.suffix for path in folder.iterdir()] == [".npy"] * len(list(folder.iterdir()))
    extraction.extract(run, config, "photos", OnTwoMachines(), StopRequest())
    assert digests(run) == digests(whole)
    mixed, config, _ = interrupted(setup, "mixed")
    extraction.extract(mixed, config, "photos", OnTwoMachines(), StopRequest())
    assert digests(mixed) == digests(whole), "some blocks on one machine, the others on two"


ROWS = np.random.default_rng(0).random((50, 6), dtype=np.float32)
CONTENTS = Contents(ROWS.shape, np.zeros(50, np.int64), [f"{i}.jpg" for i in range(50)], ("a",), MADE_BY)


def reserved(folder: Path) -> tuple[Path, int]:
    """A file with all rows in their place, and where they begin."""
    path = folder / "rows"
    path.touch()
    offset = reserve_rows(path, ROWS.shape, MADE_BY)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(ROWS.tobytes())
    return path, offset


def test_file_that_is_completed_in_place_has_the_bytes_of_one_that_is_written(tmp_path: Path) -> None:
    store.write_features(tmp_path / "written.h5", [ROWS[:20], ROWS[20:]], CONTENTS)
    assert complete_rows(tmp_path / "test.h5", *reserved(tmp_path), CONTENTS)
    assert (tmp_path / "test.h5").read_bytes() == (tmp_path / "written.h5").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.h5", "written.h5"]


@pytest.mark.parametrize("step", ["write_index", "sync", "move"])
def test_completion_that_fails_at_any_step_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path, offset = reserved(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("as after a kill")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="as after a kill"):
        patched.setattr(store, step, fail)
        complete_rows(tmp_path / "test.h5", path, offset, CONTENTS)
    assert [one.name for one in tmp_path.iterdir()] == ["rows"], "nothing under the final name"
    assert complete_rows(tmp_path / "test.h5", path, offset, CONTENTS)
    assert np.array_equal(open_features(tmp_path / "test.h5").features, ROWS)


def test_digest_that_is_made_while_blocks_are_written_is_that_of_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = Blocks(tmp_path / "parts", 50, 8, 6, "float32")
    assert blocks.prepare(MADE_BY, in_place=True, may_skip=False) == list(range(7))
    with Writer(blocks, in_place=True) as writer:
        for block in range(7):
            images = np.concatenate(blocks.batches(block))
            assert writer.digest is None, "not of all rows"
            writer.write(block, images, ROWS[images])
    found = blocks.rows_file()
    assert found is not None
    with monkeypatch.context() as patched:
        patched.setattr(np, "memmap", None)  # the rows are not read
        assert complete_rows(tmp_path / "test.h5", *found, CONTENTS, writer.digest)
    assert np.array_equal(open_features(tmp_path / "test.h5").features, ROWS), "which compares the digest"
    with Writer(blocks, in_place=True) as writer:
        writer.write(1, np.arange(8, 16), ROWS[8:16])
    assert writer.digest is None, "the first block was written by another process"


def test_rows_at_another_place_are_left_alone(tmp_path: Path) -> None:
    path, offset = reserved(tmp_path)
    before = path.read_bytes()
    assert not complete_rows(tmp_path / "test.h5", path, offset + 64, CONTENTS)
    assert path.read_bytes() == before
    assert not (tmp_path / "test.h5").exists()


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([ROWS, ROWS[:1]], "got more than 50 rows"),
        ([ROWS[:49]], "got 49 rows of features, expected 50"),
        (
            [np.where(np.arange(300).reshape(50, 6) == 299, np.nan, ROWS)],
            "a feature between rows 0 and 50 is not finite",
        ),
        ([np.where(np.arange(300).reshape(50, 6) == 7, np.inf, ROWS)], "a feature between rows 0 and 50 is not finite"),
    ],
)
def test_wrong_blocks_are_refused_and_leave_no_file(tmp_path: Path, blocks: list[np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store.write_features(tmp_path / "test.h5", blocks, CONTENTS)
    assert not list(tmp_path.iterdir())


def test_block_on_a_full_disk_is_an_error_that_names_the_file_and_is_not_finished(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        blocks = Blocks(disk.folder / "parts", 100, 50, 2000, "float32")
        assert blocks.prepare(MADE_BY, in_place=True, may_skip=False) == [0, 1]
        disk.fill()
        with pytest.raises(OSError, match=r"No space left on device: '.*/parts/rows-\d+'"):
            blocks.write(0, np.arange(50), np.ones((50, 2000), np.float32), in_place=True)
        disk.empty()
        assert blocks.prepare(MADE_BY, in_place=True, may_skip=False) == [0, 1]
        blocks.write(1, np.arange(50, 100), np.ones((50, 2000), np.float32), in_place=True)
        assert blocks.prepare(MADE_BY, in_place=True, may_skip=False) == [0]


def test_autocast_is_part_of_what_features_are(setup) -> None:
    run, config = setup("run", "extract.precision=bf16")
    make_features(run, config)
    found = open_features(run.features("photos", "test"))
    assert found.provenance.transform.endswith("resnet18, bf16 autocast")
    with pytest.raises(UserError, match=r"transform: .*resnet18 and .*resnet18, bf16 autocast"):
        make_features(run, load(run.config, Config, ["extract.precision=off"]))
    exact, same = setup("exact")
    make_features(exact, same)
    expected = open_features(exact.features("photos", "test"))
    assert expected.provenance.transform.endswith("resnet18"), "as in files of before there was a choice"
    difference = np.abs(found.features - expected.features).max() / np.abs(expected.features).max()
    assert 1e-4 < difference < 0.02


def test_encoder_computes_without_tf32(setup, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []

    def watched(*args: object) -> Source:
        source = make_source(*args)
        return Source(
            lambda images: seen.append(flags()) or source.features(images),
            source.dim, source.preprocessing, source.weights, source.digest,
        )  # fmt: skip

    def flags() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = flags()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    monkeypatch.setattr(extraction, "make_source", watched)
    run, config = setup("run")
    try:
        make_features(run, config)
        assert set(seen) == {(False, False)}
        assert flags() == (True, True)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    assert open_features(run.features("photos", "test")).provenance.versions["tf32"] == "off"


@pytest.mark.parametrize("device", ["cpu", *["cuda"] * torch.cuda.is_available()])
def test_features_of_a_batch_are_its_own_while_the_next_ones_are_computed(device: str) -> None:
    def sums(images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).float().sum(1, keepdim=True)

    encoding = Encoding(sums, torch.device(device))
    batches = [[torch.full((n, 3, 32, 32), value, dtype=torch.uint8) for n in (32, 8)] for value in range(20)]
    batches = [[part.pin_memory() if device == "cuda" else part for part in parts] for parts in batches]
    waiting = [encoding.start(parts) for parts in batches]
    for value, fetch in enumerate(waiting):
        assert fetch().tolist() == [[value * 3 * 32 * 32]] * 40
