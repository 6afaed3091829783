"""Names of probes in a config."""

from __future__ import annotations

from pathlib import Path

import pytest

from trex.config import Config, ConfigError, load
from trex.config.probe_kinds import PROBE_KINDS, parse_probe_name

FORMS = "exact, exact-<shots>shot, published, published-<shots>shot, knn<k>, knn<k>-t<temperature>"


def mistake(tmp_path: Path, kinds: str) -> str:
    (tmp_path / "recipe.yaml").write_text(f"name: a\nprobe:\n  seeds: 3\n  kinds: {kinds}\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "recipe.yaml", Config)
    [found] = caught.value.mistakes
    return str(found).removeprefix(f"{tmp_path}/")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("exakt", "exact"), ("exact-5shots", "exact-5shot"), ("exact5-shot", "exact-5shot"), ("knn", "knn5"),
        ("k-nn20", "knn20"), ("publishd-1shot", "published-1shot"), ("knn020", "knn20"), ("knn-t0.1", "knn1-t1"),
    ],
)  # fmt: skip
def test_wrong_name_is_a_mistake_with_its_line_and_the_nearest_name(tmp_path: Path, name: str, meant: str) -> None:
    found = mistake(tmp_path, f"[exact, {name}]")
    assert found == (f"recipe.yaml:4:3: 'probe.kinds' has {name!r}: expected one of {FORMS}; did you mean {meant!r}?")


@pytest.mark.parametrize(
    "name",
    [
        "exact-0shot",
        "knn0",
        "knn1000000",
        "knn20 ",
        "knn20-t0",
        "knn20-t0.0",
        "knn20-t0.10",
        "knn20-t",
        "knn20-t.1",
        "Exact",
        "knn²",
        "'..'",
        "''",
    ],
)
def test_name_that_matches_no_form_exactly_is_refused(tmp_path: Path, name: str) -> None:
    assert f"expected one of {FORMS}" in mistake(tmp_path, f'["{name}"]')


def test_empty_list_of_kinds_and_repeated_kinds_are_refused(tmp_path: Path) -> None:
    assert "'probe.kinds' is empty: expected at least one kind" in mistake(tmp_path, "[]")
    assert "'probe.kinds' has knn5 twice" in mistake(tmp_path, "[knn5, exact, knn5]")


def test_name_of_each_form_matches_this_form(tmp_path: Path) -> None:
    for form in PROBE_KINDS:
        name = form.replace("<shots>", "7").replace("<k>", "7").replace("<temperature>", "7")
        assert parse_probe_name(name).form == form
        assert set(parse_probe_name(name).numbers.values()) <= {7}
