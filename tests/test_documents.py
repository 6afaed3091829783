"""The documents are correct: their references exist, their examples run, and the generated ones are up to date."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision.datasets import imagenet

from tests.datasets.conftest import photo, put, struct, write
from trex.config import Config
from trex.config.loader import load
from trex.config.schema import DataConfig
from trex.datasets import registry, sets
from trex.datasets.registry import load_splits
from trex.distributed import Ranks
from trex.errors import ExitCode
from trex.features.extract import extract
from trex.files import read_json
from trex.interruption import StopRequest
from trex.model.encoder import build_encoder
from trex.model.weights import read_encoder
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoints
from trex.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def names_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def anchors(text: str) -> set[str]:
    """The anchors of all headings of a Markdown text."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=names_of)
def test_links_lead_to_files_and_headings_of_the_repository(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        file, _, heading = target.partition("#")
        path = (document.parent / file) if file else document
        assert path.exists(), target
        assert path.resolve().is_relative_to(ROOT), target
        assert not heading or heading in anchors(path.read_text()), target


def defined(path: Path) -> set[str]:
    """The names that a Python file defines: functions, classes, constants, and `Class.member`."""
    found: set[str] = set()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                collect(node.body, f"{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    collect(ast.parse(path.read_text()).body, "")
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=names_of)
def test_code_and_tests_that_a_document_names_exist(document: Path) -> None:
    """Checks all references of the form `folder/file.py::name`."""
    for file, name in re.findall(r"`([\w./-]+\.py)::([\w.]+)`", document.read_text()):
        assert (ROOT / file).is_file(), file
        assert name in defined(ROOT / file), f"{file}::{name}"


def test_every_rule_of_the_method_names_its_code_and_its_test() -> None:
    text = (ROOT / "docs/fidelity.md").read_text().partition("## Deviations")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    rules = [row for row in rows if row[0].strip() not in ("rule", "---")]
    assert len(rules) > 40
    for rule, code, test in rules:
        files = re.findall(r"`([\w/.]+)(?:::[\w.]+)?`", code)
        assert files, rule
        assert all((ROOT / file).is_file() for file in files), rule
        tests = re.findall(r"`(tests/[\w/]+\.py)(?:::test_\w+)?`", test)
        assert tests, rule
        assert all((ROOT / file).is_file() for file in tests), rule


@pytest.mark.parametrize(
    ("program", "document"),
    [
        ("config_reference.py", "config.md"),
        ("example_sbatch.py", "example.sbatch"),
        pytest.param("cost_tables.py", "costs.md", marks=pytest.mark.slow),
    ],
)
def test_generated_document_is_up_to_date(program: str, document: str) -> None:
    command = [sys.executable, f"tools/{program}"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    assert made.stdout == (ROOT / "docs" / document).read_text(), "run: make docs"


def test_documented_exit_codes_are_those_of_the_code() -> None:
    text = (ROOT / "docs/checkpoints.md").read_text().partition("## Exit codes")[2]
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE))
    assert rows == {str(code.value): code.meaning for code in ExitCode}


@pytest.mark.parametrize("document", DOCUMENTS, ids=names_of)
def test_python_examples_can_be_compiled(document: Path) -> None:
    for number, code in enumerate(snippets(document)):
        compile(code, f"{document.name}, snippet {number}", "exec")


def snippets(document: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


def run_snippet(document: str, number: int, count: int, paths: dict[str, str]) -> dict[str, object]:
    """Run one Python example of a document.

    Args:
        document: its name in docs/.
        number: index of the example.
        count: number of examples that the document should have.
        paths: the test's path for each path in the example.

    Returns:
        The example's global variables.
    """
    found = snippets(ROOT / "docs" / document)
    assert len(found) == count, "a test must run each example"
    code = found[number]
    for shown, used in paths.items():
        assert shown in code
        code = code.replace(shown, used)
    names: dict[str, object] = {}
    exec(code, names)
    return names


def test_example_reads_features_with_h5py(tmp_path: Path, capsys) -> None:
    put(tmp_path / "pets", "train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dog/4.png")
    settings = ["extract.weights=pixels", "extract.resize=8", "extract.crop=8", "data.workers=0", "name=trex_star"]
    places = [f"runs={tmp_path}/runs", f"data.folders.animals={tmp_path}/pets"]
    config = load(None, Config, [*settings, *places])
    extract(RunDir.of(config), config, "animals", Ranks(), StopRequest())
    folder = RunDir.of(config).features("animals", "test").parent
    made = run_snippet("features.md", 0, 1, {"runs/trex_star/features/pets": str(folder)})
    assert capsys.readouterr().out == "(2, 192) cat val/cat/3.png raw pixels\n"
    assert list(made["classes"]) == ["cat", "dog"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """The first checkpoint of a real training."""
    runs = tmp_path_factory.mktemp("runs")
    settings = ["data.dataset=digits_seen", "model.encoder=resnet18", "crops.global_size=16", "crops.local_count=0"]
    more = ["data.workers=0", "train.precision=off", "method.memory_bank_size=32", "train.batch_size=8", f"runs={runs}"]
    config = load(None, Config, [*settings, *more])
    trainer = Trainer(RunDir.of(config), config, Ranks(), StopRequest())
    trainer.resume(None)
    trainer.step(next(trainer.batches.starting_at(0, 0)))
    trainer.save("timer")
    trainer.close()
    newest = Checkpoints(RunDir.of(config).checkpoints).newest()
    assert newest is not None
    return newest.path


def test_example_reads_a_checkpoint_with_pytorch(checkpoint: Path) -> None:
    shown = "runs/trex_star/checkpoints/epoch-0100-step-00000000"
    made = run_snippet("checkpoints.md", 0, 1, {shown: str(checkpoint)})
    encoder = build_encoder("resnet18")
    encoder.load_state_dict(made["encoder"])
    assert torch.equal(encoder.conv1.weight, made["state"]["model"]["encoder.conv1.weight"])


def test_documented_keys_of_a_checkpoint_are_those_in_the_file(checkpoint: Path) -> None:
    text = (ROOT / "docs/checkpoints.md").read_text()
    state = torch.load(checkpoint / "checkpoint.pt", weights_only=True)
    for file, keys in (("checkpoint.pt", set(state)), ("manifest.json", set(read_json(checkpoint / "manifest.json")))):
        table = text.partition(f"## {file}\n")[2].partition("\n## ")[0]
        cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
        assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == keys


@pytest.fixture
def birds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Adds the document's example module to `trex/datasets/sets/`, and removes it after the test."""
    folder = tmp_path / "sets"
    found = snippets(ROOT / "docs/datasets.md")
    assert len(found) == 3, "a test must run each example"
    write(folder / "birds.py", found[2])
    monkeypatch.setattr(sets, "__path__", [*sets.__path__, str(folder)])
    registry.known.cache_clear()
    yield
    registry.known.cache_clear()
    sys.modules.pop("trex.datasets.sets.birds", None)


def test_example_of_a_new_dataset_needs_one_file_only(tmp_path: Path, birds: None) -> None:
    lines = ["a/1.jpg,owl,train", "a/2.jpg,crow,train", "b/3.jpg,owl,train", "b/4.jpg,crow,test", "5.jpg,owl,test"]
    write(tmp_path / "birds/images.csv", *lines)
    put(tmp_path / "birds", *(line.partition(",")[0] for line in lines))
    assert "birds" in registry.known()
    splits = load_splits("birds", DataConfig(root=str(tmp_path)))
    assert splits["trainval"].classes == ("crow", "owl")
    assert splits["trainval"].labels.tolist() == [1, 0, 1]
    assert [splits["test"].name(i) for i in range(2)] == ["b/4.jpg", "5.jpg"]
    assert splits["test"].read(0).shape == (32, 48, 3)
    assert splits["test"].comparable


#: In the development kit's order, which is not the sorted one.
WNIDS = ["n03000000", "n01000000", "n02000000"]
VALIDATION = [2, 3, 1, 3, 1, 2]  #: class numbers of the validation images 1, 2, …


@pytest.fixture
def archives(tmp_path: Path, monkeypatch) -> Path:
    """ImageNet's three archives with three classes. torchvision's list of digests is changed to theirs."""
    root, parts = tmp_path / "in1k", tmp_path / "parts"
    root.mkdir()
    kit = parts / "ILSVRC2012_devkit_t12"
    write(kit / "data/ILSVRC2012_validation_ground_truth.txt", *map(str, VALIDATION))
    columns = {"ILSVRC2012_ID": [1, 2, 3, 4], "WNID": [*WNIDS, "n09000000"], "words": ["a, b", "c", "d", "parent"]}
    synsets = struct(**columns, gloss=["-"] * 4, num_children=[0, 0, 0, 3], children=[[]] * 4)
    savemat(kit / "data/meta.mat", {"synsets": synsets.T})
    put(parts / "val", *(f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 7)))
    for wnid in WNIDS:
        put(parts / wnid, f"{wnid}_1.JPEG", f"{wnid}_2.JPEG")
        pack(parts / "train" / f"{wnid}.tar", sorted((parts / wnid).iterdir()))
    pack(root / "ILSVRC2012_devkit_t12.tar.gz", [kit])
    pack(root / "ILSVRC2012_img_val.tar", sorted((parts / "val").iterdir()))
    pack(root / "ILSVRC2012_img_train.tar", sorted((parts / "train").iterdir()))
    monkeypatch.setattr(tarfile.TarFile, "extraction_filter", None)  # Python's default; the examples change it
    for key, (name, _) in list(imagenet.ARCHIVE_META.items()):
        digest = hashlib.md5((root / name).read_bytes()).hexdigest()
        monkeypatch.setitem(imagenet.ARCHIVE_META, key, (name, digest))
    return root


def pack(archive: Path, content: list[Path]) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
        for path in content:
            tar.add(path, path.name)


def assert_sorted(root: Path) -> None:
    test = load_splits("in1k", DataConfig(folders={"in1k": str(root)}, subsets=("in1k",)))["test"]
    assert test.classes == tuple(sorted(WNIDS))
    found = {test.name(i).rpartition("_")[2]: test.classes[test.labels[i]] for i in range(len(test))}
    assert found == {f"{i:08d}.JPEG": WNIDS[number - 1] for i, number in enumerate(VALIDATION, start=1)}


def test_example_unpacks_imagenets_archives_into_class_folders(archives: Path) -> None:
    run_snippet("datasets.md", 0, 3, {"/datasets/in1k": str(archives)})
    assert_sorted(archives)


def test_example_sorts_flat_validation_images_and_can_be_interrupted(archives: Path) -> None:
    put(archives, *(f"train/{wnid}/1.JPEG" for wnid in WNIDS))
    for i in range(1, 7):
        if i == 4:
            run_snippet("datasets.md", 1, 3, {"/datasets/in1k": str(archives)})
        put(archives / "val", f"ILSVRC2012_val_{i:08d}.JPEG")
    run_snippet("datasets.md", 1, 3, {"/datasets/in1k": str(archives)})
    assert_sorted(archives)
    assert not list((archives / "val").glob("*.JPEG"))
    assert np.array_equal((archives / "val/n01000000/ILSVRC2012_val_00000001.JPEG").read_bytes(), photo())


def test_example_writes_all_lines_of_a_mapping_file(tmp_path: Path) -> None:
    weights, lines = tmp_path / "w.pth", tmp_path / "lines.yaml"
    state = build_encoder("resnet18").state_dict()
    torch.save({key.replace("layer", "_stage"): value for key, value in state.items()}, weights)
    paths = {"efficientnet-lite0.pth": str(weights), "timm/tf_efficientnet_lite0": "resnet18"}
    run_snippet("zoo.md", 0, 4, {**paths, "lite0.yaml": str(lines)})
    assert "\n_stage1.0.bn1.: layer1.0.bn1.\n" in lines.read_text()
    found = read_encoder(weights, "resnet18", lines)
    assert all(torch.equal(found[key], state[key]) for key in found)
