"""Prints docs/costs.md: what the recipes and the probes cost, from the sizes alone.

The operations per image are counted by PyTorch on the networks of the recipes, without computing. The hours of the
probes are those of `trex check` (trex/probing/cost.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from trex.config.loader import load
from trex.config.schema import Config
from trex.datasets.registry import known
from trex.probing.cost import exact_cost
from trex.probing.memory import Size
from trex.training.network import network_on_meta
from trex.wording import duration

RECIPES = ("supervised", "trex1", "trex3", "trex_star", "trex")
IN1K_IMAGES, IN1K_CLASSES = 1_281_167, 1000
COUNTED_IMAGES = 2  #: batch norm needs more than one
MEMORY = 16e9
FEATURE_DIM = 2048
SEEDS = 5
#: Operations per second that the convolutions of a ResNet50 reach in mixed precision. Assumed, not measured here: an
#: A100 at a fifth of its peak of 312 TFLOP/s, an H100 at twice that.
RATES = {"A100": 65e12, "H100": 130e12}

HEAD = """# Costs

`make docs` generates this page with `tools/cost_tables.py`. It needs no GPU and no data: the operations are counted,
the hours are estimates. [performance.md](performance.md) says what was measured.

## Recipes

One operation is a multiplication or an addition. Forward, backward and momentum networks are counted, per image with
all its crops. The images per second assume that a GPU reaches {rates} in these layers.
This is an assumption, not a measurement: `make bench-gpu` measures it on your GPU. The hours are those of all epochs of
ImageNet-1K on one GPU, without validation; four GPUs take a quarter, as long as they get their images in time.
"""

PROBES = """
## Probes

Time of one core for `exact` on {dim}-dimensional features with {memory:g} GB, for one seed and for {seeds}, which share
the final fit if they choose the same C. Imports, reading and writing are not counted. The core has AVX-512 with
bfloat16; without bfloat16, the large sets take up to twice as long.
"""


def operations(config: Config) -> int:
    """Floating-point operations per image of one step: encoder and projector with gradients, momentum networks without.

    The class weights and all that is not a product or a convolution are less than a hundredth.
    """
    crops, network = config.crops, network_on_meta(config, IN1K_CLASSES).train()
    sizes = [(crops.global_count, crops.global_size), (crops.local_count, crops.local_size)]
    images = [torch.zeros(n * COUNTED_IMAGES, 3, size, size, device="meta") for n, size in sizes if n]
    with FlopCounterMode(display=False) as counter:
        outputs = network.features(images)
        if hasattr(network, "projector"):
            outputs = network.projector(outputs)
        torch.autograd.backward([outputs.sum()])
        if hasattr(network, "momentum_encoder"):
            with torch.no_grad():
                network.momentum_projector(network.momentum_encoder(images[0][:COUNTED_IMAGES]))
    return int(counter.get_total_flops()) // COUNTED_IMAGES


def recipes() -> Iterator[str]:
    """The table of the recipes."""
    columns = [f"{name}: images/s" for name in RATES] + [f"{name}: GPU-hours" for name in RATES]
    yield f"| recipe | Gigaoperations per image | epochs | {' | '.join(columns)} |"
    yield "|---" * (3 + len(columns)) + "|"
    for name in RECIPES:
        config = load(Path(__file__).parents[1] / "configs" / f"{name}.yaml", Config)
        needed, epochs = operations(config), config.train.epochs
        rates = [f"{rate / needed:.0f}" for rate in RATES.values()]
        hours = [f"{epochs * IN1K_IMAGES * needed / rate / 3600:.0f}" for rate in RATES.values()]
        yield f"| {name} | {needed / 1e9:.1f} | {epochs} | {' | '.join([*rates, *hours])} |"


def probes() -> Iterator[str]:
    """The table of the datasets with official counts."""
    yield f"| dataset | trainval images | classes | one seed | {SEEDS} seeds |"
    yield "|---" * 5 + "|"
    for name, dataset in known().items():
        counts, family = dataset.counts, name.rpartition("_")[0]
        if counts is None or not dataset.needs_files or family in known():  # dtd_2 … dtd_10 have the sizes of dtd
            continue
        cost = exact_cost(Size(counts.trainval, counts.test, FEATURE_DIM, counts.classes), MEMORY)
        hours = " | ".join(duration(3600 * cost.hours(seeds)) for seeds in (1, SEEDS))
        yield f"| {name} | {counts.trainval:,} | {counts.classes:,} | {hours} |"


def main() -> None:
    """Print the page."""
    rates = " and ".join(f"{rate / 1e12:.0f} TFLOP/s ({name})" for name, rate in RATES.items())
    print(HEAD.format(rates=rates))
    print("\n".join(recipes()))
    print(PROBES.format(dim=FEATURE_DIM, memory=MEMORY / 1e9, seeds=SEEDS))
    print("\n".join(probes()))


if __name__ == "__main__":
    main()
