"""Datasets larger than the memory, and interrupted searches: the results are the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.probing.test_probing import features_of_pixels, results, synthetic  # noqa: F401
from tests.stopping import StopAfter
from trex import tensor_files
from trex.config.schema import ProbeConfig
from trex.errors import Interrupted, UserError
from trex.interruption import StopRequest
from trex.probing import exact, published
from trex.probing.design import Basis, Design
from trex.probing.exact import Problem
from trex.probing.folds import validation_fold
from trex.probing.kind import kind_of
from trex.probing.memory import Place, Size, solver_memory
from trex.probing.partial import Partial
from trex.probing.probe import probe
from trex.probing.rows import Rows
from trex.probing.solution import SEARCH_LARGE
from trex.probing.solver import RegularizationPath
from trex.probing.treatment import Treatment
from trex.records.probe_result import Search, Trial

#: The two largest datasets, with the features of a ResNet-50.
IN1K = Size(1281167, 50000, 2048, 1000)
INAT2018 = Size(437513, 24426, 2048, 8142)


def solved(features: np.ndarray, labels: torch.Tensor, place: Place, keep: bool) -> list[torch.Tensor]:
    rows = Rows(features, normalize=True)
    basis = Basis.of(rows)
    design = Design.at(rows, basis, 8, place)
    path = RegularizationPath(design, labels.numpy(), 8, StopRequest(), keep_logits=keep)
    return [path.solve(c, SEARCH_LARGE).weights for c in (1e-2, 1e-1, 1.0, 10.0, 100.0)]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_features_that_are_read_in_pieces_give_the_same_optimum(monkeypatch, dtype: type) -> None:
    features, labels = synthetic(700, 60, 8)
    stored = features.numpy().astype(dtype)
    expected = solved(stored, labels, "rotated", keep=True)
    monkeypatch.setattr("trex.probing.memory.PIECE", 61 * 128)
    rows = Rows(stored, normalize=True)
    reference = Design.of(rows, Basis.of(rows), 8, in_memory=True)
    monkeypatch.setattr("trex.probing.memory.SAMPLE", 100)  # for a line search
    for place, keep in (("rotated", False), ("half", True), ("half", False), ("file", True), ("file", False)):
        for c, one, other in zip(
            (1e-2, 1e-1, 1.0, 10.0, 100.0), expected, solved(stored, labels, place, keep), strict=True
        ):
            # both gaps are at most SEARCH_LARGE.gap times f, and f - f* >= λ/2 ‖W - W*‖²
            objective = _objective(reference, labels, one, c)
            assert _objective(reference, labels, other, c) == pytest.approx(objective, rel=SEARCH_LARGE.gap)
            distance = (one - other)[:, :-1].square().sum()
            assert distance <= 2 * 2 * SEARCH_LARGE.gap * objective * c * 700 * 2 * reference.basis.scale**2


def _objective(design: Design, labels: torch.Tensor, weights: torch.Tensor, c: float) -> float:
    assert design.rotated is not None
    loss = torch.nn.functional.cross_entropy(design.rotated.double() @ weights.double().T, labels)
    strength = 1 / (c * len(labels) * design.basis.scale**2)
    return float(loss + strength / 2 * weights[:, :-1].double().square().sum())


def test_subsets_and_pieces_of_rows_are_the_rows_of_the_array() -> None:
    stored = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float16)
    chosen = Rows(stored).subset(np.array([3, 7, 8, 20])).subset(np.array([1, 3]))
    assert np.array_equal(chosen.take(slice(None)).numpy(), stored[[7, 20]].astype(np.float32))
    assert np.array_equal(torch.cat(list(Rows(stored).pieces(7))).numpy(), stored.astype(np.float32))
    lengths = Rows(stored, normalize=True).take(np.array([9, 2])).norm(dim=1)
    assert torch.allclose(lengths, torch.ones(2))


def problem(stop: StopRequest, fast: bool) -> Problem:
    features, labels = synthetic(400, 30, 5)
    rows = Rows(features.numpy())
    design = Design.of(rows, Basis.of(rows), 5, in_memory=True)
    return Problem(design, labels.numpy(), 5, keep_logits=True, stop=stop, fast=fast)


def found(stop: StopRequest, path: Path, fast: bool) -> tuple[Search, torch.Tensor]:
    partial = Partial(path, key="these features")
    one = problem(stop, fast)
    try:
        choice = exact.choose_c(one, [validation_fold(one.labels, 0)], partial)
        return choice, exact.fit(one, choice.best["C"], partial)
    except Interrupted:
        partial.write()
        raise


@pytest.mark.parametrize("large", [False, True])
def test_interrupted_search_continues_to_bit_identical_weights(tmp_path: Path, monkeypatch, large: bool) -> None:
    """Large: the search in bfloat16, with a sample for the line search; the final fit ends in float32 and float64."""
    if large:
        monkeypatch.setattr("trex.probing.memory.SMALL_PRODUCT", 0)
        monkeypatch.setattr("trex.probing.memory.SAMPLE", 50)
    expected, weights = found(StopRequest(), tmp_path / "uninterrupted" / "seed_0.json", fast=large)
    path = tmp_path / "interrupted" / "seed_0.json"
    stops = 0
    while True:
        try:
            choice, final = found(StopAfter(40 * (stops + 1)), path, fast=large)  # later each time, until one finishes
            break
        except Interrupted:
            stops += 1
    assert stops >= 3
    assert torch.equal(final, weights)
    assert choice.best == expected.best
    assert [t.validation_score for t in choice.trials] == [t.validation_score for t in expected.trials]


def test_interrupted_published_search_continues_with_the_same_trials(tmp_path: Path) -> None:
    features, labels = synthetic(300, 12, 4)
    rows, targets = Rows(features.numpy()), labels.numpy()
    fold = validation_fold(targets, 1)

    def search(stop: StopRequest, partial: Partial) -> Search:
        ranges = {"C": published.C_RANGE}
        return published.choose(published.fit_lbfgs, ranges, rows, targets, fold, 1, stop, partial, trials=14)

    expected = search(StopRequest(), Partial(tmp_path / "a.json", key=""))
    partial = Partial(tmp_path / "b.json", key="")
    with pytest.raises(Interrupted):
        search(StopAfter(12), partial)
    partial.write()
    again = Partial(tmp_path / "b.json", key="")
    assert len(again.trials) == 12
    choice = search(StopRequest(), again)
    assert choice.best == expected.best
    assert [t.values for t in choice.trials] == [t.values for t in expected.trials]


def test_unfinished_search_on_other_features_is_not_continued(tmp_path: Path) -> None:
    partial = Partial(tmp_path / "seed_0.json", key="these")
    trial = Trial({"C": 1.0}, validation_score=0.5, seconds=0.1)
    partial.seconds = 2.5
    partial.update(trials=[trial], own=[torch.ones(3)])
    partial.write()
    same, other = (Partial(tmp_path / "seed_0.json", key) for key in ("these", "others"))
    assert (same.trials, same.seconds) == ((trial,), 2.5)
    assert torch.equal(same.own[0], torch.ones(3))
    assert (other.trials, other.own, other.seconds) == ((), None, 0.0)


@pytest.mark.parametrize("content", [b"garbage", None])
def test_search_begins_again_if_its_file_is_damaged(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / ".seed_0.partial.pt"
    if content is None:  # a readable file with missing and wrong fields
        tensor_files.save({"key": "these", "trials": [{"C": 1.0}]}, path)
    else:
        path.write_bytes(content)
    assert Partial(tmp_path / "seed_0.json", "these").trials == ()


def test_interrupted_probe_keeps_its_search_file_until_it_has_finished(features_of_pixels) -> None:  # noqa: F811
    run, config = features_of_pixels
    with pytest.raises(Interrupted):
        probe(run, config, "digits_unseen", [0], StopAfter(60))
    assert [path.name for path in run.root.glob("probes/**/.*")] == [".seed_0.partial.pt"]
    probe(run, config, "digits_unseen", [0], StopRequest())
    assert list(run.root.glob("probes/**/.*")) == []
    assert len(results(run)) == 3


def test_solver_keeps_in_memory_as_much_as_fits() -> None:
    pets = Size(3680, 3669, 2048, 37)
    found = {limit: solver_memory(IN1K, limit) for limit in (64e9, 32e9, 16e9, 8e9, 4e9)}
    assert all(memory.bytes <= limit for limit, memory in found.items())
    assert [(memory.rows, memory.logits) for memory in (solver_memory(pets, 16e9), *found.values())] == [
        ("rotated", True), ("rotated", True), ("half", True), ("half", True), ("half", False), ("file", False),
    ]  # fmt: skip


def test_too_little_memory_is_an_error_that_names_the_least_sufficient_value() -> None:
    small, large = Treatment(normalize=False, sgd=False), Treatment(normalize=True, sgd=True)
    least = kind_of("exact").least_bytes(INAT2018, large)
    assert 2e9 < least < 6e9
    with pytest.raises(UserError, match=r"probe\.memory_gb is 1, .* set probe\.memory_gb=\d\.\d or more"):
        solver_memory(INAT2018, 1e9)
    solver_memory(INAT2018, least)
    with pytest.raises(UserError, match="memory_gb"):
        kind_of("published").used_bytes(IN1K, small, 16e9)
    assert kind_of("published").used_bytes(IN1K, large, 16e9) < 2e9


def test_published_probe_fits_large_datasets_by_sgd_and_small_ones_by_lbfgs() -> None:
    names = ("in1k", "pets")
    assert [kind_of("published").fitted_by(Treatment.of(name, ProbeConfig())) for name in names] == [
        "SGD, search 2",
        "L-BFGS, search 2",
    ]


_MEASURED = r"""
import re, sys
from pathlib import Path
import numpy as np, torch
from trex.interruption import StopRequest
from trex.probing import exact
from trex.probing.design import Basis, Design
from trex.probing.folds import validation_fold
from trex.probing.memory import Size, solver_memory
from trex.probing.partial import Partial
from trex.probing.rows import Rows
torch.set_num_threads(1)
exact.GRID = (1e-3, 1e-2)
n, d, k, limit = 30000, 256, 1500, float(sys.argv[2])
stored = np.memmap(sys.argv[1], np.float16, "r", shape=(n, d))
memory = solver_memory(Size(n, 100, d, k), limit)
rows, labels = Rows(stored, normalize=True), np.arange(n) % k
design = Design.at(rows, Basis.of(rows), k, memory.rows)
problem = exact.Problem(design, labels, k, memory.logits, StopRequest(), fast=True)
partial = Partial(Path(sys.argv[1]).with_name("seed_0.json"), key="")
search = exact.choose_c(problem, [validation_fold(labels, 0)], partial)
exact.fit(problem, search.best["C"], partial)
# not from getrusage: its maximum starts at that of the parent process
peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
print(memory.rows, memory.logits, memory.bytes, peak)
"""


@pytest.mark.slow
def test_memory_stays_below_the_limit(tmp_path: Path) -> None:
    """30,000 x 256 features of 1500 classes: the logits take 180 MB, and the solver keeps three copies of them."""
    chance = np.random.default_rng(0)
    np.abs(chance.normal(size=(30000, 256))).astype(np.float16).tofile(tmp_path / "features")
    for limit in (1.5e9, 4e9):
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED, str(tmp_path / "features"), str(limit)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        rows, logits, planned, used = done.stdout.split()
        mapped = 30000 * 256 * 2  # pages of the mapped file, which the kernel can free at any time
        assert int(used) - mapped <= int(planned) <= limit, json.dumps([rows, logits, planned, used])
        assert logits == str(limit > 2e9)
