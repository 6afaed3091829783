"""What makes the exact solver fast, each against its plain twin: equal bits, or equal within the stated error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from trex.interruption import StopRequest
from trex.probing import exact, lbfgs
from trex.probing.approach import Approach, Approaches, decades_to
from trex.probing.design import COLUMNS, Basis, Design
from trex.probing.exact import Problem
from trex.probing.line import Line
from trex.probing.memory import Place
from trex.probing.partial import Partial
from trex.probing.rows import Rows
from trex.probing.solution import SEARCH_LARGE
from trex.probing.solver import RegularizationPath

CLASSES = 6


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trex.probing.memory.SMALL_PRODUCT", 0)


def data(images: int = 1500, dim: int = 90, noise: float = 1.0) -> tuple[Rows, np.ndarray]:
    chance = np.random.default_rng(0)
    labels = np.arange(images) % CLASSES
    spread = np.arange(1, dim + 1) ** -0.7
    features = (chance.normal(size=(CLASSES, dim))[labels] + noise * chance.normal(size=(images, dim))) * spread
    return Rows(features.astype(np.float32)), labels


def problem(dtype: torch.dtype = torch.float32, noise: float = 1.0, fast: bool = True) -> Problem:
    rows, labels = data(noise=noise)
    design = Design.of(rows, Basis.of(rows, dtype=dtype), CLASSES, in_memory=True)
    return Problem(design, labels, CLASSES, True, StopRequest(), fast)


def fitted(one: Problem, c: float, folder: Path) -> torch.Tensor:
    return exact.fit(one, c, Partial(folder / "fit.json", key=""))


def test_basis_in_float32_gives_the_predictions_of_that_in_float64(tmp_path: Path) -> None:
    """Of an encoder's features, with a mean that is far from 0 and directions of little variance."""
    rows, labels = data()
    shifted = Rows((rows.stored + 20).astype(np.float32))
    found = []
    for dtype in (torch.float32, torch.float64):
        basis = Basis.of(shifted, dtype=dtype)
        assert {basis.vectors.dtype, basis.values.dtype} == {torch.float64}
        assert torch.allclose(basis.vectors.T @ basis.vectors * basis.scale**2, torch.eye(90).double(), atol=1e-5)
        design = Design.of(shifted, basis, CLASSES, in_memory=True)
        weights = fitted(Problem(design, labels, CLASSES, True, StopRequest()), 1.0, tmp_path / str(dtype))
        found.append(np.concatenate([part.argmax(1) for part in design.logits(weights)]))
    assert (found[0] == found[1]).mean() >= 0.999
    assert (found[0] == labels).mean() > 0.8


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_quick_inner_products_equal_those_in_float64(scale: float) -> None:
    """Also where the products are below the smallest float32, or above the largest."""
    chance = torch.Generator().manual_seed(0)
    one, other = (scale * torch.randn(50, 2000, generator=chance) for _ in range(2))
    assert one.numel() > lbfgs.FEW
    size = float((one.double() * other.double()).abs().sum())
    assert abs(lbfgs.quick_dot(one, other) - lbfgs.dot(one, other)) <= 1e-6 * size
    assert lbfgs.norm(one) == pytest.approx(float(one.double().norm()), rel=1e-6)
    assert lbfgs.quick_inner(one, one) == pytest.approx(lbfgs.inner(one, one), rel=1e-6)


@pytest.mark.parametrize("place", ["rotated", "half"])
def test_columns_of_zeros_change_no_product(place: Place) -> None:
    rows, _ = data()
    design = Design.at(rows, Basis.of(rows), CLASSES, place)
    weights = torch.randn(CLASSES, design.width)
    (piece,), plain = design.pieces(torch.bfloat16), next(design.pieces())
    factor = design.factor(weights, torch.bfloat16)
    assert piece.shape[1] == factor.shape[1] == 3 * COLUMNS
    assert torch.equal(piece[:, : plain.shape[1]], plain.bfloat16())
    assert torch.equal(factor[:, : plain.shape[1]], design.piece_weights(weights).bfloat16())
    assert not piece[:, plain.shape[1] :].any()
    assert not factor[:, plain.shape[1] :].any()
    residuals = torch.randn(CLASSES, len(piece)).bfloat16()
    slope = design.basis_gradient((residuals @ piece).float())
    expected = design.basis_gradient((residuals @ plain.bfloat16()).float())
    assert slope.shape == weights.shape
    assert torch.allclose(slope, expected, atol=0.01 * float(expected.abs().max()))


@pytest.mark.parametrize("relative", [False, True])
def test_residuals_of_the_line_search_are_those_of_the_point(relative: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computing them again gives the same bits."""
    found = []
    minimum = Line.minimum
    for again in (False, True):
        if again:
            monkeypatch.setattr(Line, "minimum", lambda line: (minimum(line)[0], []))
        path = problem().path(None, None)
        solution = path.solve(1.0, SEARCH_LARGE)
        if relative:
            solution = path.solve_precisely(1.0, exact.FINAL_FLOAT32)
        assert solution.iterations > 0 or relative
        found.append(solution.weights)
    assert torch.equal(*found)


def test_fits_that_share_their_approach_have_the_bits_of_fits_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order, and with less work."""
    solved: list[float] = []
    solve = RegularizationPath.solve

    def counted(path: RegularizationPath, c: float, *given: object) -> object:
        if path.design.dtype == torch.float32:
            solved.append(c)
        return solve(path, c, *given)

    monkeypatch.setattr(RegularizationPath, "solve", counted)
    values = (1e5, 31622.8, 1e6)
    alone = {c: fitted(problem(noise=0.3), c, tmp_path / f"alone{c}") for c in values}
    shared, first = problem(noise=0.3), len(solved)
    for c in values:
        assert torch.equal(fitted(shared, c, tmp_path / f"shared{c}"), alone[c])
    assert len(solved) - first < 0.6 * first
    no_room = problem(noise=0.3)
    monkeypatch.setattr("trex.probing.approach.SHARED_STATES", 0)
    for c in values:
        assert torch.equal(fitted(no_room, c, tmp_path / f"none{c}"), alone[c])
    assert no_room.approaches.nearest(decades_to(1e6, no_room.strength(1.0))) == Approach()


def test_fit_with_large_c_continues_with_all_images_where_the_classes_are_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the solution of a part of the images, it needs more evaluations with all of them."""
    images: list[int] = []
    evaluate = RegularizationPath._evaluate

    def counted(path: RegularizationPath, *args: object, **given: object) -> object:
        images.append(len(path.labels))
        return evaluate(path, *args, **given)

    monkeypatch.setattr(RegularizationPath, "_evaluate", counted)
    rows, labels = data(900, 400, noise=2.0)
    design, whole = Design.of(rows, Basis.of(rows), CLASSES, in_memory=True), []
    for learned in (exact.choice.LEARNED, -1.0):
        monkeypatch.setattr(exact.choice, "LEARNED", learned)
        images.clear()
        fitted(Problem(design, labels, CLASSES, True, StopRequest(), fast=True), 1e6, tmp_path / str(learned))
        assert min(images) < len(labels), "the small values of C are solved with a part of the images"
        whole.append(images.count(len(labels)))
    assert 1.25 * whole[0] < whole[1], whole


def test_decades_begin_where_a_cold_start_is_quick_and_end_before_c() -> None:
    assert decades_to(1e3, 1.0) == [10.0, 100.0]
    assert decades_to(316.228, 1.0) == decades_to(1e3, 1.0)
    assert decades_to(3162.28, 1.0) == [10.0, 100.0, 1000.0]
    assert decades_to(10.0, 1.0) == decades_to(0.1, 1.0) == []
    assert decades_to(1e-2, 1e-4) == [1e-3]


def test_shared_paths_are_kept_as_far_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    one = problem().path(None, None)
    one.solve(1.0, SEARCH_LARGE)
    state, shared = one.state(), Approaches()
    assert state.bytes >= sum(tensor.numel() * 4 for pair in state.pairs for tensor in pair) > 0
    monkeypatch.setattr("trex.probing.approach.SHARED_STATES", 1.5 * state.bytes)
    for c in (1.0, 10.0):
        shared.keep(c, Approach(int(c), state, whole=True))
    assert shared.nearest([1.0, 10.0]).done == 1
    assert shared.nearest([0.1]) == Approach()
