"""`torch.hub.load` of this folder returns an encoder, and needs only torch and torchvision."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from tests.released import released
from trex.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def load(**words: object) -> torch.nn.Module:
    return torch.hub.load(str(ROOT), "trex", source="local", **words)


def test_released_full_checkpoint_is_loaded_as_an_encoder_in_eval_mode(tmp_path: Path) -> None:
    model, _, checkpoint = released()
    torch.save(checkpoint, tmp_path / "x_checkpoint_full.pth")
    encoder = load(weights=str(tmp_path / "x_checkpoint_full.pth"), encoder="resnet18")
    images = torch.randn(2, 3, 64, 64)
    assert not encoder.training
    with torch.inference_mode():
        expected = model.module.model.encoder.eval()(images)
        torch.testing.assert_close(encoder(images), expected, rtol=1e-5, atol=1e-5)


def test_names_in_a_file_of_another_library_are_mapped(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    torch.save({f"net.{key}": value for key, value in state.items()}, tmp_path / "w.pth")
    (tmp_path / "map.json").write_text('{"net.": ""}')
    encoder = load(weights=str(tmp_path / "w.pth"), encoder="resnet18", key_map=str(tmp_path / "map.json"))
    assert torch.equal(encoder.state_dict()["conv1.weight"], state["conv1.weight"])


def test_encoder_without_weights_warns_that_it_is_untrained() -> None:
    with pytest.warns(UserWarning, match="untrained"):
        encoder = load()
    with torch.inference_mode():
        assert encoder(torch.randn(2, 3, 64, 64)).shape == (2, 2048)


def test_wrong_architecture_is_an_error(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "encoder.pth")
    with pytest.raises(UserError, match="The file holds a resnet18"):
        load(weights=tmp_path / "encoder.pth")


@pytest.mark.slow
def test_entry_point_needs_only_torch_and_torchvision(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "encoder.pth")
    program = f"""
import importlib.abc, importlib.metadata, sys
packages = importlib.metadata.packages_distributions()
import torch, torchvision
before = set(sys.modules)
encoder = torch.hub.load({str(ROOT)!r}, "trex", source="local", weights={str(tmp_path / "encoder.pth")!r},
                         encoder="resnet18")
new = {{name.partition(".")[0] for name in set(sys.modules) - before}} & set(packages)
print(sorted(new - {{"trex", "torch", "torchvision"}}), sys.modules["trex"].__file__)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["[]", str(ROOT / "trex" / "__init__.py")], done.stdout + done.stderr
