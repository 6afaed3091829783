"""What the files of a whole run must never hold: rights for others, and the values of environment variables."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pictures import write_noise

RECIPE = """
data: {dataset: mine, workers: 1, folders: {mine: images}}
crops: {global_size: 32, local_size: 16, local_count: 1}
model: {encoder: resnet18}
method: {hidden_dim: 8, output_dim: 8, memory_bank_size: 4}
optimizer: {warmup_epochs: 0}
train: {epochs: 1, batch_size: 4, precision: "off"}
extract: {datasets: [mine], resize: 32, crop: 32}
probe: {kinds: [knn1]}
"""
SECRET = "hunter2-which-is-in-no-file"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder with a recipe and images, whose files belong to its group, and in which the group may write."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    write_noise(tmp_path / "images", images=4, size=32)
    tmp_path.chmod(0o2775)
    return tmp_path


@pytest.mark.slow
def test_run_with_umask_0_in_a_shared_folder_keeps_no_secret_and_lets_nobody_write(shared: Path) -> None:
    words = [sys.executable, "-m", "jobs.cli", "run", "recipe.yaml", "--cluster", "local", "--processes", "2"]
    secrets = {"WANDB_API_KEY": SECRET, "HF_TOKEN": SECRET, "MY_PASSWORD": SECRET}
    done = subprocess.run(
        words, cwd=shared, env={**os.environ, **secrets}, capture_output=True, text=True, umask=0, timeout=800
    )
    assert done.returncode == 0, done.stderr
    made = [path for path in (shared / "runs").rglob("*") if not path.is_symlink()]
    for stage in ("checkpoints", "features", "probes", "report", "tensorboard", "jobs"):
        assert any(path.parent.is_relative_to(shared / "runs/run" / stage) for path in made), stage
    assert [path for path in (shared / "runs", *made) if stat.S_IMODE(path.stat().st_mode) & 0o022] == []
    assert [path for path in made if path.is_file() and SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in done.stdout + done.stderr
