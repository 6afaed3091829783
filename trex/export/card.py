"""The model card of exported weights: their origin, use, scores, recipe, digests and license."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

import trex
from trex.images.preprocessing import MEAN, STD
from trex.records.environment import Environment, values_of
from trex.records.probe_result import ProbeResult
from trex.records.run_dir import RunDir
from trex.reporting.collect import RunData, collect
from trex.reporting.stages import of_stage
from trex.reporting.tables import markdown
from trex.wording import counted

#: The sections of the config that determine the weights.
_RECIPE = ("crops", "model", "method", "optimizer", "train")


@dataclass(frozen=True)
class Facts:
    """Facts about an exported file and the checkpoint that it was made from. All digests are SHA-256."""

    file: str  #: name of the file
    layout: str  #: `encoder` or `full`
    file_digest: str
    encoder_digest: str  #: as in feature files
    checkpoint: str  #: name of the checkpoint's folder
    checkpoint_digest: str
    finished: bool  #: whether the training had finished
    license: str | None
    saved: Mapping[str, Any]  #: the training state, from `TrainingState.to_dict`


def card(run: RunDir, facts: Facts) -> str:
    """The model card as Markdown."""
    data = collect(run)
    parts = [
        f"# {run.name}: {facts.saved['config']['model']['encoder']}",
        "\n".join(_introduction(facts)),
        "## Use\n\n" + _use(facts),
        "## Scores\n\n" + "\n\n".join(_scores(data, facts)),
        "## Recipe\n\n```yaml\n" + _recipe(facts.saved["config"]) + "```",
        "## Digests\n\n" + "\n".join(_digests(facts)),
        "## Versions\n\n" + _versions(of_stage(data, "train")),
        "## License\n\n" + _license(facts.license),
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(facts: Facts) -> Iterator[str]:
    saved, config = facts.saved, facts.saved["config"]
    at, epochs = saved["position"], config["train"]["epochs"]
    content = "The encoder" if facts.layout == "encoder" else "The complete training state"
    yield (
        f"{content} of a run of the t-ReX toolkit "
        f"{trex.__version__} (arXiv 2206.15369), trained with the method `{config['method']['name']}` on "
        f"`{config['data']['dataset']}`, {len(saved['classes'])} classes."
    )
    if facts.finished:
        yield f"Training finished: {counted(epochs, 'epoch')}, {counted(at['global_step'], 'step')}."
    else:
        yield (
            f"**Training had not finished**: {at['epoch']} of {counted(epochs, 'epoch')} and "
            f"{counted(at['step'], 'step')} of the next one, {counted(at['global_step'], 'step')} in total."
        )
    if config["data"]["dataset"] in config["data"]["subsets"]:
        yield "The training data may be a subset of the official dataset."
    if start := saved.get("start"):
        name = Path(start["file"]).name
        yield f"Training started from `{name}` ({start['with']}), SHA-256 `{start['sha256']}`."
        if "key_map" in start:
            yield f"`{Path(start['key_map']).name}` mapped its names, SHA-256 `{start['key_map_sha256']}`."


def _use(facts: Facts) -> str:
    encoder = facts.saved["config"]["model"]["encoder"]
    if facts.layout == "full":
        return (
            f"```python\nimport argparse\n\nimport torch\n\n"
            f"with torch.serialization.safe_globals([argparse.Namespace]):  # the class of `args`\n"
            f'    checkpoint = torch.load("{facts.file}", map_location="cpu", weights_only=True)\n```\n\n'
            f"`checkpoint` is a dict in the layout of the released program: `model`, `optimizer`, `epoch` (epochs "
            f"finished), `args` and, if mixed precision was used, `fp16_scaler`. The toolkit can evaluate its encoder "
            f"(`extract.weights={facts.file}`), and start or continue a training with it (`train.start={facts.file}`)."
        )
    load = f'torch.load("{facts.file}", weights_only=True)'
    if facts.file.endswith(".safetensors"):
        load = f'safetensors.torch.load_file("{facts.file}")'
    return (
        f"```python\nencoder = torchvision.models.{encoder}()\n"
        f"encoder.load_state_dict({load}, strict=False)  # missing keys: fc.weight and fc.bias only\n"
        f"encoder.fc = torch.nn.Identity()\nencoder.eval()\n```\n\n"
        f"Images: RGB in 0 … 1, normalized with the mean {MEAN} and the standard deviation {STD}."
    )


def _scores(data: RunData, facts: Facts) -> Iterator[str]:
    """The last validation before the checkpoint, and the probes on features of exactly these weights."""
    last = facts.saved["position"]["global_step"]
    validations = [line for line in data.metrics if line.phase == "validation" and line.step <= last]
    if validations:
        line = validations[-1]
        dataset = facts.saved["config"]["data"]["dataset"]
        wanted = {"top1": "top-1", "top5": "top-5"}
        scores = ", ".join(f"{wanted[name]} {line.values[name]:.2f} %" for name in wanted if name in line.values)
        yield f"Validation on {dataset} after epoch {line.epoch:g}: {scores}."
    cells = {key: cell for key, cell in data.cells.items() if _all_from(cell.results, facts.encoder_digest)}
    untested = {key: "predictions are missing" for key in data.untested if key in cells}  # without paths
    shown = replace(data, cells=cells, untested=untested)
    yield markdown([shown]).rstrip() if cells else "No probe results for these weights yet."


def _all_from(results: Sequence[ProbeResult], digest: str) -> bool:
    return all(result.provenance.encoder_digest == digest for result in results)


def _recipe(config: Mapping[str, Any]) -> str:
    recipe = {section: dict(config[section]) for section in _RECIPE}
    for key in ("start", "key_map"):
        if recipe["train"].get(key):
            recipe["train"][key] = Path(recipe["train"][key]).name
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def _digests(facts: Facts) -> Iterator[str]:
    yield "| | SHA-256 |\n|---|---|"
    yield f"| `{facts.file}` | `{facts.file_digest}` |"
    yield f"| names, shapes and values of the encoder's weights, as in feature files | `{facts.encoder_digest}` |"
    yield f"| the run's `{facts.checkpoint}/checkpoint.pt` | `{facts.checkpoint_digest}` |"
    yield f"| names and labels of the training images | `{facts.saved['data_digest']}` |"


def _versions(trainings: Sequence[Environment]) -> str:
    """What the newest attempt of the training ran on, and each fact in which earlier ones differed."""
    if not trainings:
        return "Not recorded."
    newest = trainings[-1]
    versions = {**newest.packages, **newest.libraries}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    code = f" Code: {newest.code}." if str(newest.code) else ""
    differing = [f"{name} {' → '.join(values)}" for name, values in values_of(trainings).items() if len(values) > 1]
    changed = f"\n\nIts {len(trainings)} attempts differ: {'; '.join(differing)}." if differing else ""
    return f"Python {newest.python}; {listed}. Devices: {newest.devices}.{code}{changed}"


def _license(license: str | None) -> str:
    if license:
        return f"{license}."
    return (
        "Not stated. The publisher chooses it, within the terms of the training images and of the weights that the "
        "training started from. `trex export --license` writes it here. (The toolkit itself is under Apache-2.0.)"
    )
