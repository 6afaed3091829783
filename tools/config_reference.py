"""Prints docs/config.md: all settings of recipes and cluster files, with allowed values, defaults and meanings.

All of this comes from the dataclasses in trex/config/schema.py, trex/methods/ and jobs/plan/cluster.py.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from jobs.plan.cluster import WORD, Cluster, StageResources
from jobs.plan.defaults import Defaults
from trex.config import Config
from trex.config.loader import choices, chosen_class, to_dict
from trex.config.schema import DATASET, NAME

HEAD = """# Settings

`make docs` generates this page from `trex/config/schema.py`, `trex/methods/` and `jobs/plan/cluster.py`.

A recipe is a YAML file with the settings that differ from the defaults; the defaults are the t-ReX* recipe. Every
setting can also be set on the command line:
`trex train configs/trex.yaml train.epochs=50 crops.local_scale='[0.05, 0.2]'`. Before anything is created or submitted,
all mistakes are reported at once, each with file, line, what was expected and the nearest valid name. `trex check` also
checks data, checkpoints and cluster.

- A number can be written in any notation: `0.0001`, `1e-4`. A number in quotes is text, and is refused if a number is
  expected.
- A *name* has at most 64 letters, digits, `.`, `_` and `-`, and begins with a letter or digit.
- A list is `[a, b]`. YAML's anchors, aliases and tags are refused, and so is a key that is set twice.
- A *path* may begin with `~` and contain `$NAME` or `${NAME}`, which are replaced when the command is called, as in a
  shell; the run keeps the result. A variable that is not set is a mistake.
- Settings that depend on each other are checked too: a range begins with its smaller number, `extract.crop` is at most
  `extract.resize`, and `optimizer.warmup_epochs` is at most `train.epochs`.
- Settings marked ↻ may change between the attempts of one run, because they do not change its result. If any other
  setting changes, resuming is refused (exit code 77): change it back, or give the run a new name.
"""

CLUSTERS = """
# Cluster files

A cluster file says where the stages run and which resources their jobs request. It is `configs/clusters/<name>.yaml`,
or `~/.config/trex/clusters/<name>.yaml` to use it from every folder. `CLUSTER=<name>` or `--cluster <name>` chooses it.
`example.yaml` shows the settings in use; [slurm.md](slurm.md) explains how jobs run.

- On Slurm, `time` has one of Slurm's forms: `minutes`, `minutes:seconds`, `hours:minutes:seconds`, `days-hours`,
  `days-hours:minutes`, `days-hours:minutes:seconds`.
- On Slurm, `options` are options of sbatch, and `process_options` of srun. If `partition`, `account` or `qos` is
  omitted, `SBATCH_PARTITION`, `SBATCH_ACCOUNT` and `SBATCH_QOS` apply.
- In `launcher`, `python` and the values of `process_options`, `$NAME`, `${NAME}` and a leading `~/` are replaced on the
  node. [slurm.md](slurm.md#where-the-software-lives) explains these settings.
- A *word* has no spaces or line breaks, so that it cannot add lines to the batch script.
"""

STAGES = """
## Resources of a stage

`<stage>` is `train`, `extract`, `probe` or `report`. All four have the same settings.
"""

DEFAULTS = """
# Defaults of a user or a site

`~/.config/trex/config.yaml`, and `/etc/trex/config.yaml` for what it does not set. Recipes, cluster files and command
options come first.

| setting | allowed | default | meaning |
|---|---|---|---|"""

TABLE = "\n| setting | allowed | default | meaning |\n|---|---|---|---|"
_KINDS = {int: "whole number", float: "number", bool: "`true`, `false`", str: "text"}
_PATTERNS = {NAME: "name", DATASET: "name, or `torchvision:` and a name", WORD: "word"}


def recipe() -> Iterator[str]:
    """A table of the top-level settings, then one per section, or one per class that can be chosen for a section."""
    yield "\n## The run\n" + TABLE
    yield from rows(Config, prefix="", resumable=False)
    for field, kind in sections(Config):
        yield f"\n## {field.name}: {field.metadata['doc']}"
        if package := field.metadata.get("package"):
            yield from chosen(field, package)
            continue
        yield TABLE
        yield from rows(kind, prefix=f"{field.name}.", resumable=field.metadata["resumable"])


def chosen(field: dataclasses.Field[Any], package: str) -> Iterator[str]:
    """A table for each class that can be chosen for a section, the default first."""
    default = field.metadata["default"]
    yield f"\n`{field.name}.name` chooses one of these groups of settings; the default is `{default}`."
    for name in sorted(choices(package), key=lambda name: (name != default, name)):
        cls = chosen_class(package, name)
        yield f"\n### {field.name}.name: {name}\n\n{(cls.__doc__ or '').splitlines()[0]}"
        settings = list(rows(cls, prefix=f"{field.name}.", resumable=field.metadata["resumable"]))
        yield from [TABLE, *settings] if settings else ["It has no settings."]


def cluster() -> Iterator[str]:
    """A table of the cluster's settings, and one for all stages, which have the same settings."""
    yield TABLE
    yield from rows(Cluster, prefix="", resumable=False)
    yield STAGES + TABLE
    yield from rows(StageResources, prefix="<stage>.", resumable=False)


def sections(cls: type[Any]) -> Iterator[tuple[dataclasses.Field[Any], type[Any]]]:
    """The fields that are groups of settings, each with its dataclass."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield field, hints[field.name]


def rows(cls: type[Any], prefix: str, resumable: bool) -> Iterator[str]:
    """A table row for each plain setting of a dataclass."""
    hints = typing.get_type_hints(cls)
    groups = {field.name for field, _ in sections(cls)}
    for field in dataclasses.fields(cls):
        if field.name in groups:
            continue
        if "doc" not in field.metadata:  # the name of a chosen class, which is in the heading
            continue
        mark = " ↻" if resumable or field.metadata["resumable"] else ""
        default = field.default_factory() if callable(field.default_factory) else field.default
        cells = (f"`{prefix}{field.name}`{mark}", allowed(hints[field.name], field.metadata), value(default))
        meaning = field.metadata["doc"].replace("<", "&lt;")
        yield "| " + " | ".join(text.replace("|", "\\|") for text in (*cells, meaning)) + " |"


def allowed(kind: Any, meta: Mapping[str, Any]) -> str:
    """The allowed values of a setting, in words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (types.UnionType, typing.Union):
        given, *words = [item for item in inner if item is not type(None)]
        others = [allowed(item, meta) for item in words] + ["nothing"] * (type(None) in inner)
        return ", or ".join([allowed(given, meta), *others])
    if origin is dict:
        return f"`name: value` lines, each value: {allowed(inner[1], meta)}"
    if origin is tuple:
        item = allowed(inner[0], meta)
        return f"list, each: {item}" if inner[-1] is Ellipsis else f"list of {len(inner)}, each: {item}"
    if meta["path"]:
        return "path"
    if meta["pattern"]:
        return _PATTERNS.get(meta["pattern"], f"text of the form `{meta['pattern']}`")
    return _KINDS[kind] + _range(meta)


def _range(meta: Mapping[str, Any]) -> str:
    signs = {"above": ">", "at_least": "≥", "at_most": "≤"}
    bounds = [f"{sign} {meta[key]}" for key, sign in signs.items() if meta[key] is not None]
    return " " + ", ".join(bounds) if bounds else ""


def value(default: Any) -> str:
    """A default in YAML notation."""
    if default is None:
        return "nothing"
    plain = to_dict(default)
    if isinstance(plain, bool):
        return f"`{str(plain).lower()}`"
    return "`" + str(plain).replace("'", "") + "`"


def main() -> None:
    """Write the page to standard output."""
    print(
        "\n".join(
            [HEAD.rstrip("\n"), *recipe(), CLUSTERS.rstrip("\n"), *cluster(), DEFAULTS, *rows(Defaults, "", False)]
        )
    )


if __name__ == "__main__":
    main()
