"""The tree is the same with libyaml and with PyYAML's own parser, and no text makes the parser crash."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trex.config import Config, tree
from trex.config.loader import to_yaml
from trex.config.tree import MAX_DEPTH, Mistake, Node, parse

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TEXTS = {
    **{str(path.relative_to(CONFIGS)): path.read_text() for path in sorted(CONFIGS.rglob("*.yaml"))},
    "whole config": to_yaml(Config()),
    "flow": "{a: [1, \"2\", {b: ~}], c: 'é'}\n",
    "block scalars": "a: |\n  x\n  y\nb: >-\n  z\n",
    "empty": "# nothing\n",
    "twice": "a: 1\nb:\n  c: 2\n  c: 3\na: 4\n",
    "key": "? [a, b]\n: 1\nd: 2\n",
    "alias": "a: &x 1\nb: *x\n",
    "tag": "a: !!python/object/apply:os.system [true]\n",
    "documents": "a: 1\n---\nb: 2\n",
    "not closed": "a: [1, 2\nb: 3\n",
    "tab": "a:\n\tb: 1\n",
    "tab after a key": "a:\t1\nb:\n  - \tc\n",
    "anchors that grow": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "merge": "a: &a {b: 1}\nc:\n  <<: *a\n",
    "directive": "%YAML 9.9\n---\na: 1\n",
    "tag of a mapping": "a: !!map {b: 1}\n",
    "control character": "a: \x01\n",
    "indentation": "a:\n    b: 1\n  c: 2\n",
    "two values": "a: b: c\n",
    "not closed quote": "a: 'b\nc: d\n",
    "escape": 'a: "\\q"\n',
    "reserved": "a: @b\nc: `d\n",
    "mark": "\ufeffa: 1\n",
    "carriage returns": "a: 1\r\nb:\r\n  c: 2\r\n",
    "only a list": "- a\n- b\n",
    "long key": f"{'k' * 2000}: 1\n",
}


def with_loader(monkeypatch: pytest.MonkeyPatch, text: str, *loaders: type) -> tuple[Node | None, list[Mistake]]:
    monkeypatch.setattr(tree, "_LOADERS", loaders)
    mistakes: list[Mistake] = []
    return parse(text, "x.yaml", mistakes), mistakes


@pytest.mark.parametrize("name", TEXTS)
def test_both_parsers_give_the_same_tree_and_the_same_mistakes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = with_loader(monkeypatch, TEXTS[name], yaml.SafeLoader)
    assert with_loader(monkeypatch, TEXTS[name], yaml.CSafeLoader, yaml.SafeLoader) == slow
    if not any("not valid YAML" in str(mistake) for mistake in slow[1]):
        assert with_loader(monkeypatch, TEXTS[name], yaml.CSafeLoader) == slow


@pytest.mark.parametrize("text", ["[" * 500_000, "- " * 400_000, "{a: " * 100_000, "? " * 300_000])
def test_text_that_nests_without_end_is_refused_where_it_is_too_deep(text: str) -> None:
    mistakes: list[Mistake] = []
    assert parse(text, "x.yaml", mistakes) is None
    assert f"nested more than {MAX_DEPTH} levels deep" in str(mistakes[0])
