"""One step: its batch in parts (`train.accumulate`), and compiled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.stopping import StopAfter
from tests.training.conftest import assert_same_bits
from tests.training.test_resume import final_state, finish
from trex.config import Config, load
from trex.config.schema import TrainConfig
from trex.distributed import Ranks
from trex.errors import Interrupted, UserError
from trex.model.loss import Output
from trex.records.run_dir import RunDir
from trex.training.network import Network, build_network
from trex.training.requirements import require_batch
from trex.training.scaler import CountingScaler
from trex.training.state import Position, TrainingState, make_optimizer
from trex.training.step import Step, parts_of
from trex.training.trainer import train

IMAGES, CLASSES = 8, 5


def step_of(method: str, ranks: Ranks, accumulate: int) -> tuple[Network, Step]:
    """A step in float64. The batch norms that get gradients use their running statistics."""
    small = [] if method == "supervised" else ["method.hidden_dim=8", "method.output_dim=6"]
    if method == "trex_class_means":
        small.append("method.memory_bank_size=20")
    config = load(None, Config, ["model.encoder=resnet18", f"method.name={method}", *small])
    network = build_network(config, CLASSES, ranks, seed=0).double()
    for name, part in network.named_children():
        if name in ("encoder", "projector"):
            part.eval()
    state = TrainingState(network, make_optimizer(network, config.optimizer), CountingScaler("cpu", False), Position())
    return network, Step(state, TrainConfig(precision="off", accumulate=accumulate), ranks)


def batch(step: int) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(step)
    crops = [
        torch.randn(count * IMAGES, 3, size, size, generator=generator, dtype=torch.float64)
        for count, size in ((2, 32), (3, 16))
    ]
    return crops, torch.randint(CLASSES, (IMAGES,), generator=generator)


def trained(
    ranks: Ranks, method: str, accumulate: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Two steps. Returns the last gradients, the loss and the sums of the metrics, and the state after the steps."""
    network, step = step_of(method, ranks, accumulate)
    share = IMAGES // ranks.world
    mine = slice(ranks.rank * share, (ranks.rank + 1) * share)
    for number in range(2):
        crops, labels = batch(number)
        crops = [torch.cat([one[mine] for one in crop.split(IMAGES)]) for crop in crops]
        output = step.gradients(crops, labels[mine])
        gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
        step.update()
    return gradients, seen(output), network.state_dict()


def seen(output: Output) -> dict[str, Tensor]:
    sums = {name: torch.stack([values.double().sum(), torch.tensor(float(values.numel()))])
            for name, values in output.metrics.items()}  # fmt: skip
    return {"loss": output.loss.detach(), **sums}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["trex_class_means", "trex_plain", "supervised"])
@pytest.mark.parametrize(("world", "accumulate"), [(1, 4), (2, 2)])
def test_parts_of_a_batch_give_the_gradient_of_the_whole_batch(on_ranks, method: str, world: int, accumulate) -> None:
    ((gradients, output, state),) = on_ranks(1, trained, method, 1)
    found = on_ranks(world, trained, method, accumulate)
    for gradients_found, _, state_found in found:
        assert gradients_found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert (gradients_found[name] - gradient).norm() <= 1e-12 * max(float(gradient.norm()), 1.0), name
        for name, value in state.items():
            assert torch.allclose(state_found[name].double(), value.double(), rtol=1e-9, atol=1e-11), name
    for name, value in output.items():
        together = torch.stack([one[1][name] for one in found])
        expected = together.mean(0) if name == "loss" else together.sum(0)
        assert torch.allclose(expected, value, rtol=1e-12), name


def test_each_part_has_all_crops_of_its_images_in_the_memory_format_of_the_batch() -> None:
    images = torch.arange(4).float().view(4, 1, 1, 1).expand(4, 3, 2, 2)
    crops = [(100 * crop + images) for crop in range(3)]
    given = [torch.cat(crops).contiguous(memory_format=torch.channels_last), crops[2]]
    made = list(parts_of(given, torch.arange(4), 2))
    assert [labels.tolist() for _, labels in made] == [[0, 1], [2, 3]]
    assert made[1][0][0][:, 0, 0, 0].tolist() == [2, 3, 102, 103, 202, 203]
    assert made[1][0][1][:, 0, 0, 0].tolist() == [202, 203]
    assert made[1][0][0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_training_in_parts_resumes_with_the_same_bits(tiny, saved_run) -> None:
    settings = ("train.epochs=1", "train.accumulate=4")
    reference, config = tiny("reference", *settings), tiny("stopped", *settings)
    finish(saved_run(reference), reference)
    run = saved_run(config)
    with pytest.raises(Interrupted):
        train(run, config, Ranks(), StopAfter(4))
    finish(run, config)
    assert_same_bits(final_state(RunDir.of(reference)), final_state(run))
    encoder = final_state(run)["model"]
    assert int(encoder["encoder.bn1.num_batches_tracked"]) == 2 * 4 * 7, "two resolutions, four parts, seven steps"
    assert int(encoder["momentum_encoder.bn1.num_batches_tracked"]) == 7, "once per step, with the whole batch"


def test_parts_of_different_sizes_are_refused(tiny) -> None:
    config = tiny("parts", "train.batch_size=12", "train.accumulate=4")
    require_batch(config, 1, None)
    with pytest.raises(UserError, match=r"train\.accumulate is 4: it must divide the 6 images .*, 2 processes"):
        require_batch(config, 2, None)


def test_kernels_chosen_by_time_and_deterministic_kernels_exclude_each_other(tiny) -> None:
    with pytest.raises(UserError, match=r"cudnn_benchmark"):
        tiny("a", "train.cudnn_benchmark=true")
    assert tiny("b", "train.cudnn_benchmark=true", "train.deterministic=false").train.cudnn_benchmark is True


@pytest.mark.slow
def test_compiled_encoder_has_the_same_names_and_losses() -> None:
    """With the backend aot_eager, which traces as the default one does and needs no C++ compiler."""
    crops, labels = batch(0)

    def losses(compiled: bool) -> tuple[list[float], Network]:
        network, step = step_of("trex_class_means", Ranks(), 1)
        if compiled:
            network.compile_encoders(backend="aot_eager")
        made = []
        for _ in range(2):
            made.append(step.gradients(crops, labels).loss.item())
            step.update()
        return made, network

    (plain, network), (compiled, other) = losses(compiled=False), losses(compiled=True)
    assert other.encoder._compiled_call_impl is not None
    assert compiled == pytest.approx(plain, rel=1e-9)
    assert network.state_dict().keys() == other.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.allclose(value.double(), other.state_dict()[name].double(), rtol=1e-7, atol=1e-9), name
