"""The demo continues from where an earlier call stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import demo
from trex.records.run_dir import RunDir


def test_training_that_an_earlier_demo_interrupted_is_not_interrupted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path)
    values = '{"loss": 1.5, "top1": 50.0, "lr": 0.02, "images_per_second": 30.0}'
    head = '{"format": 1, "phase": "train", "step": 60, "epoch": 4.0, '
    run.metrics.write_text(f'{head}"values": {values}, "time": 1.0}}\n')
    monkeypatch.setattr(demo, "RUN", run)
    monkeypatch.setattr(demo, "TREX", ["/nothing"])  # starting it would be an error
    demo.train_interrupted()
    assert "is continued" in capsys.readouterr().out
