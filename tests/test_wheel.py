"""The built wheel works without the checkout: in a separate virtual environment, from an empty folder.

The virtual environment uses the dependencies of the environment that runs the tests. With TREX_FULL_INSTALL=1 (`make
test-install`) pip installs all dependencies in the versions of constraints.txt, as for a user.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

import trex

ROOT = Path(__file__).resolve().parents[1]
FULL = bool(os.environ.get("TREX_FULL_INSTALL"))
#: The files and folders that the wheel is built from; nothing else of the checkout is available to the build.
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "trex", "jobs", "configs")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400 if FULL else 900)]

TINY = """
name: tiny
data: {dataset: digits_unseen, workers: 1}
crops: {global_size: 16, local_size: 8, local_count: 1}
model: {encoder: resnet18}
method: {hidden_dim: 32, output_dim: 16, memory_bank_size: 64}
optimizer: {lr: 0.05, warmup_epochs: 0}
train: {epochs: 1, batch_size: 128, precision: "off", log_every: 2}
extract: {datasets: [digits_unseen], resize: 16, crop: 16}
probe: {seeds: 1}
"""

CLUSTER = """
kind: slurm
train: {partition: mine, nodes: 2, gpus_per_node: 4}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    words = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir"]
    subprocess.run([*words, str(target), str(source)], check=True, capture_output=True, text=True)
    (made,) = target.iterdir()
    return made


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the installed wheel, and a working folder."""

    environment: Path
    home: Path

    @property
    def packages(self) -> Path:
        """The environment's site-packages."""
        return next((self.environment / "lib").glob("python3.*")) / "site-packages"

    def call(self, program: str, *words: str, **more: object) -> subprocess.CompletedProcess[str]:
        """Run one of its programs without access to the checkout, to Slurm or to the user's own files."""
        clean = {"PATH": "", "HOME": str(self.home / "user"), "OMP_NUM_THREADS": "1"}
        settings = {"cwd": self.home, "env": clean, "timeout": 720, **more}
        command = [str(self.environment / "bin" / program), *words]
        return subprocess.run(command, capture_output=True, text=True, **settings)  # type: ignore[call-overload, no-any-return]

    def trex(self, *words: str, **more: object) -> str:
        """Run a command that must succeed. Returns its output."""
        done = self.call("trex", *words, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, program: str, **more: object) -> str:
        """Run a Python program that must succeed. Returns its output."""
        done = self.call("python", "-c", program, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    if FULL:
        pip += ["--constraint", str(ROOT / "constraints.txt")]
    else:
        pip += ["--no-deps", "--no-index"]
        borrowed = Installed(folder, folder).packages / "borrowed.pth"
        borrowed.write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, text=True)
    yield folder
    shutil.rmtree(folder)  # 6 GB with all dependencies


@pytest.fixture
def installed(environment: Path, tmp_path: Path) -> Installed:
    return Installed(environment, tmp_path)


def test_wheel_contains_all_files_of_the_packages_and_the_configs(wheel: Path) -> None:
    wanted = {
        str(path.relative_to(ROOT))
        for package in ("trex", "jobs")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted |= {f"jobs/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == wanted


def test_environment_imports_the_installed_packages(installed: Installed) -> None:
    files = installed.python("import trex, jobs; print(trex.__file__, jobs.__file__)").split()
    assert [Path(file) for file in files] == [installed.packages / name / "__init__.py" for name in ("trex", "jobs")]


def test_version_is_that_of_the_wheel(installed: Installed, wheel: Path) -> None:
    assert installed.trex("--version") == f"trex {trex.__version__}\n"
    assert wheel.name.split("-")[1] == trex.__version__


def test_recipe_of_the_toolkit_is_found_by_name_in_an_empty_folder(installed: Installed) -> None:
    out = installed.trex("train", "trex_star", "--dry-run", "--cluster", "local")
    assert out == f"would run on this machine: train with 1 process, in {installed.home}/runs/trex_star\n"
    assert list(installed.home.iterdir()) == []


@pytest.mark.parametrize("place", ["own.yaml", "configs/clusters/own.yaml", "user/.config/trex/clusters/own.yaml"])
def test_dry_run_for_slurm_with_the_users_cluster_file_prints_the_batch_script(
    installed: Installed, place: str
) -> None:
    path = installed.home / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CLUSTER)
    name = "own.yaml" if place == "own.yaml" else "own"
    out = installed.trex("train", "trex_star", "--cluster", name, "--dry-run", "--verbose")
    assert "#SBATCH --partition=mine" in out
    assert "trex_recorded=nothing" in out, "it contains the lines of requeue.sh"
    assert "trex_become()" in out, "and those of start.sh"
    assert not (installed.home / "runs").exists()


def test_snapshot_from_site_packages_contains_the_toolkit_and_can_be_imported(installed: Installed) -> None:
    program = (
        "from pathlib import Path; from trex.records.run_dir import RunDir; from jobs.slurm.snapshot import *\n"
        "run = RunDir(Path('runs/one')); code = take_snapshot(run)\n"
        "assert take_snapshot(run) == code == code_digest(); print(snapshot_of(run, code).absolute())"
    )
    code = Path(installed.python(program))
    assert sorted(path.name for path in code.iterdir()) == ["jobs", "trex"]
    assert (code / "jobs" / "slurm" / "requeue.sh").is_file()
    assert (code / "jobs" / "configs" / "trex_star.yaml").is_file()
    env = {"PYTHONPATH": str(code), "PATH": ""}
    assert installed.python("import jobs.worker.task as t; print(t.__file__)", env=env).startswith(str(code))


def obeying_file_modes() -> None:
    """Make root obey the modes of files: drop the capability to override them, in the process that is started."""
    drop_from_bounding_set, override = 24, 1
    ctypes.CDLL(None).prctl(drop_from_bounding_set, override)


def test_training_runs_even_if_the_installation_and_the_home_are_read_only(installed: Installed) -> None:
    """If all dependencies are installed, the other stages, which need more of them, run too."""
    (installed.home / "tiny.yaml").write_text(TINY)
    (installed.home / "user").mkdir()
    shutil.rmtree(installed.packages / "trex" / "images" / "__pycache__", ignore_errors=True)
    read_only = [installed.home / "user", installed.packages / "trex" / "images"]
    for folder in read_only:
        folder.chmod(0o555)
    try:
        command = "run" if FULL else "train"
        installed.trex(command, "tiny.yaml", "--cluster", "local", preexec_fn=obeying_file_modes)
        assert not (installed.packages / "trex" / "images" / "__pycache__").exists()
    finally:
        for folder in read_only:
            folder.chmod(0o755)
    run = installed.home / "runs" / "tiny"
    assert list((run / "checkpoints").glob("*/manifest.json"))
    assert (run / "report" / "index.html").is_file() == FULL
    assert list((run / "jobs" / "numba").rglob("*.nbi"))
    assert (run / "jobs").stat().st_mode & 0o777 == 0o700


def test_hub_entry_point_works_in_the_installed_package(installed: Installed) -> None:
    program = "import warnings; warnings.simplefilter('ignore'); from trex.hub import load_encoder as load; "
    assert installed.python(program + "print(load(encoder='resnet18').feature_dim)") == "512"
