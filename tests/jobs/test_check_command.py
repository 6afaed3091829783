"""`trex check` as a command: each thing that would fail is a line of its own, and nothing is created."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import main
from tests.datasets.conftest import put
from tests.disks import small_disk
from trex.files import write_text

RECIPE = """
name: mine
data: {dataset: digits_seen}
model: {encoder: resnet18}
extract: {datasets: [digits_unseen]}
train: {epochs: 20, batch_size: 100}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    write_text(tmp_path / "recipe.yaml", RECIPE)
    return tmp_path


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, str]]:
    """The exit code, and each line that says FAIL by its first word."""
    code = main(["check", "recipe.yaml", "--cluster", "local", *words])
    lines = capsys.readouterr().out.splitlines()
    failed = [line.removeprefix("FAIL").strip() for line in lines if line.startswith("FAIL")]
    return code, {line.partition(":")[0]: line for line in failed}


def test_recipe_that_would_run_passes_and_creates_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys) == (0, {})
    assert [path.name for path in home.iterdir()] == ["recipe.yaml"]


def test_run_of_that_name_with_another_config_is_found(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_text(home / "runs/mine/config.yaml", RECIPE.replace("epochs: 20", "epochs: 30"))
    code, failed = check(capsys)
    assert (code, list(failed)) == (2, ["run"])
    assert [word in failed["run"] for word in ("train.epochs", "30", "20")] == [True] * 3


def test_batch_that_does_not_divide_among_the_processes_is_found(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(home / "three.yaml", "kind: local\ntrain: {tasks_per_node: 3}\n")
    code, failed = check(capsys, "--cluster", "three.yaml")
    assert (code, list(failed)) == (2, ["batch"])
    assert ["100" in failed["batch"], "3" in failed["batch"]] == [True, True]
    assert check(capsys, "--cluster", "three.yaml", "train.batch_size=99") == (0, {})


def test_batch_that_is_larger_than_the_data_is_found(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, failed = check(capsys, "train.batch_size=2048", "data.workers=0")
    assert (code, list(failed)) == (2, ["batch"])
    assert "train.batch_size is 2048, but digits_seen has only 1014 training images" in failed["batch"]


def test_job_with_too_little_memory_is_found(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_text(home / "little.yaml", "kind: local\ntrain: {memory_gb: 1}\n")
    code, failed = check(capsys, "--cluster", "little.yaml", "train.batch_size=10")
    assert (code, list(failed)) == (2, ["memory"])
    assert [word in failed["memory"] for word in ("train needs about", "train.memory_gb is 1")] == [True, True]


def test_every_dataset_that_is_missing_is_found(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, failed = check(capsys, "extract.datasets=[digits_unseen, dtd]", "data.dataset=pets")
    assert (code, len(failed)) == (2, 2)
    said = " ".join(failed.values())
    assert [f"{home}/data/{name}" in said for name in ("pets", "dtd")] == [True, True]


def test_subset_passes_with_a_note_if_it_is_declared(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(home / "data/in1k", "train/crow/1.jpg", "val/crow/2.jpg")
    assert check(capsys, "extract.datasets=[in1k]")[0] == 2
    assert main(["check", "recipe.yaml", "--cluster", "local", "extract.datasets=[in1k]", "data.subsets=[in1k]"]) == 0
    assert "not comparable" in capsys.readouterr().out


def test_start_file_is_not_read_once_the_training_has_begun(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, failed = check(capsys, "train.start=gone.pth")
    assert (code, len(failed)) == (2, 1)
    assert "gone.pth" in next(iter(failed.values()))
    (home / "runs/mine/checkpoints/epoch-0001-step-00000000").mkdir(parents=True)
    assert check(capsys, "train.start=gone.pth") == (0, {})


def disk_line(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    main(["check", "recipe.yaml", "--cluster", "local", *words])
    return next(line for line in capsys.readouterr().out.splitlines() if "disk: " in line)


@pytest.mark.parametrize(
    ("size", "words", "said"),
    [
        # three checkpoints of a ResNet-18 with momentum and a momentum encoder
        ("100m", (), "FAIL  disk: the file system {} has 104.9 MB free"),
        ("300m", (), "ok    disk: warning: the file system {} has 314.6 MB free"),
        ("1g", (), "ok    disk: the file system {} has 1.1 GB free"),
        # nine more: that of the last epoch is one of the three
        ("1g", ("checkpoint.milestone_epochs=2",), "ok    disk: warning: the file system {} has 1.1 GB free"),
        ("1g,nr_inodes=100", (), "FAIL  disk: the file system {} has 1.1 GB free and 99 free inodes"),
        # features only: no checkpoint is counted
        ("100m", ("extract.weights=untrained",), "ok    disk: the file system {} has 104.9 MB free"),
        ("100m", ("extract.weights=untrained", "extract.datasets=[digits_seen]"), "ok    disk: the file system {} has"),
        ("100m", ("extract.weights=pixels",), "FAIL  disk: the file system {} has 104.9 MB free"),
        (
            "1g",
            ("extract.weights=pixels", "train.epochs=9000", "checkpoint.milestone_epochs=1"),
            "ok    disk: the file",
        ),
    ],
)
def test_free_space_is_compared_with_a_checkpoint_and_with_all_that_is_needed(
    home: Path, capsys: pytest.CaptureFixture[str], size: str, words: tuple[str, ...], said: str
) -> None:
    with small_disk(home / "disk", f"size={size}") as disk:
        line = disk_line(capsys, f"runs={disk.folder}", *words)
    said = said.format(home / "disk")
    assert line.startswith(said), line
    assert ("delete files there" in line) == (said.startswith("FAIL") or "warning" in said)


def test_folder_that_cannot_be_written_is_found(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, failed = check(capsys, "runs=/proc/mine")
    assert code == 2
    assert any("/proc" in line and "runs=" in line for line in failed.values())


def test_check_of_a_recipe_for_training_imports_no_torch(home: Path) -> None:
    program = (
        "import sys; from jobs.cli import main\n"
        "code = main(['check', 'recipe.yaml', '--cluster', 'local'])\n"
        "sys.exit(code or ('torch' in sys.modules and 'imports torch'))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
