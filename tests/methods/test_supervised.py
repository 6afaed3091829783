"""Plain supervised training: compared with short direct formulas, and run through every stage of a run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.stopping import StopAfter
from tests.training.conftest import assert_same_bits, few_digits, few_images, saved_run, tiny  # noqa: F401
from tests.training.test_resume import command, final_state, logged_beyond, run_to_end, steps_saved
from trex.config import Config
from trex.config.schema import ModelConfig
from trex.distributed import Ranks
from trex.errors import Interrupted, UserError
from trex.export.write import export
from trex.methods.supervised import Supervised
from trex.model.encoder import build_encoder
from trex.model.weights import read_encoder
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.training.network import Network, build_network
from trex.training.trainer import train

K = 5


def network() -> Network:
    return build_network(Config(model=ModelConfig(encoder="resnet18"), method=Supervised()), K, Ranks(), 0).double()


def batch(size: int = 4) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    crops = [torch.randn(n * size, 3, s, s, generator=generator, dtype=torch.float64) for n, s in ((1, 32), (2, 16))]
    return crops, torch.randint(K, (size,), generator=generator)


def test_classifier_is_a_linear_layer_with_bias_on_the_encoders_features() -> None:
    net = network()
    assert [(name, tuple(p.shape)) for name, p in net.classifier.named_parameters()] == [
        ("weight", (K, 512)), ("bias", (K,)),
    ]  # fmt: skip
    assert [name for name, _ in net.named_children()] == ["encoder", "classifier"]


@pytest.mark.parametrize("resolutions", [1, 2])
def test_loss_is_the_mean_cross_entropy_over_all_crops(resolutions: int) -> None:
    """The recipe has one 224 crop per image; with local crops, all crops count equally."""
    net, (crops, labels) = network(), batch()
    crops = crops[:resolutions]
    loss, metrics = net(crops, labels)
    weight, bias = net.classifier.weight, net.classifier.bias
    logits = torch.cat([net.encoder(crop) for crop in crops]) @ weight.T + bias
    repeated = torch.cat([labels] * (1 if resolutions == 1 else 3))
    expected = (logits.logsumexp(1) - logits[torch.arange(len(logits)), repeated]).mean()
    assert torch.allclose(loss, expected, rtol=1e-10)
    assert metrics.keys() == {"top1"}
    assert torch.equal(metrics["top1"], 100.0 * (logits.argmax(1) == repeated))


def test_validation_uses_the_trained_classifier() -> None:
    net, (crops, _) = network().eval(), batch()
    expected = net.encoder(crops[0]) @ net.classifier.weight.T + net.classifier.bias
    assert torch.allclose(net.classify(crops[0]), expected, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_interrupted_processes_end_with_the_same_bits(tiny, saved_run, few_images) -> None:  # noqa: F811
    settings = ("train.log_every=1", "crops.local_count=0", "train.batch_size=8", few_images)
    reference, config = (tiny(name, *settings, method="supervised") for name in ("reference", "stopped"))
    saved_run(reference)
    run_to_end(reference, 2)
    run = saved_run(config)
    steps_before = steps_saved(run)
    job = subprocess.Popen(command(config, 2, 0), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not logged_beyond(run, steps_before) and job.poll() is None:
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=600)
    assert job.returncode == 75, output
    run_to_end(config, 2)
    expected = final_state(RunDir.of(reference))
    assert_same_bits(expected, final_state(run))
    assert expected["config"]["method"] == {"name": "supervised"}
    assert {key.partition(".")[0] for key in expected["model"]} == {"encoder", "classifier"}
    validations = [line for line in MetricsLine.read_lines(run.metrics).strict() if line.phase == "validation"]
    assert len(validations) == 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> RunDir:
    """A supervised run that `trex run` has trained, extracted, probed and reported."""
    folder = tmp_path_factory.mktemp("supervised")
    (folder / "little.yaml").write_text(
        "name: little\ndata: {dataset: digits_unseen, workers: 0}\nmodel: {encoder: resnet18}\n"
        "method: {name: supervised}\ncrops: {global_size: 16, local_count: 0}\noptimizer: {warmup_epochs: 0}\n"
        'train: {epochs: 1, batch_size: 256, precision: "off"}\nprobe: {seeds: 1}\n'
        "extract: {datasets: [digits_unseen], resize: 16, crop: 16}\n"
    )
    config = str(folder / "little.yaml")
    arguments = [sys.executable, "-m", "jobs.cli", "run", config, f"runs={folder}", "--cluster", "local"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=840, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    return RunDir(folder / "little")


@pytest.mark.slow
def test_supervised_run_extracts_probes_and_exports_its_encoder_only(trained: RunDir, tmp_path: Path) -> None:
    assert list(trained.root.glob("probes/digits_unseen/*/seed_0.json"))
    assert trained.report.exists()
    done = export(trained, tmp_path / "encoder.pth", "encoder", license=None)
    found, saved = read_encoder(tmp_path / "encoder.pth", "resnet18"), final_state(trained)["model"]
    assert found.keys() == build_encoder("resnet18").state_dict().keys()
    assert all(torch.equal(found[key], saved[f"encoder.{key}"]) for key in found)
    assert "with the method `supervised`" in done.card.read_text()
    with pytest.raises(UserError, match="released full checkpoints has no place for the method supervised"):
        export(trained, tmp_path / "x_checkpoint_full.pth", "full", license=None)
    assert not (tmp_path / "x_checkpoint_full.pth").exists()


@pytest.mark.slow
def test_training_stopped_during_validation_resumes_with_the_same_bits(tiny, saved_run) -> None:  # noqa: F811
    torch.set_num_threads(1)
    settings = ("train.batch_size=64", "train.epochs=2", "crops.local_count=0", "optimizer.warmup_epochs=0")
    reference, config = (tiny(name, *settings, method="supervised") for name in ("reference", "stopped"))
    saved_run(reference)
    train(RunDir.of(reference), reference, Ranks(), StopAfter(10**6))
    run, stops = saved_run(config), 0
    for checks in [2, 3, 4, 5] * 10:
        try:
            train(run, config, Ranks(), StopAfter(checks))
            break
        except Interrupted:
            stops += 1
    assert stops > 2
    assert_same_bits(final_state(RunDir.of(reference)), final_state(run))
