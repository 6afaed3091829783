"""All settings of a run, with defaults and meanings. The defaults are the t-ReX* recipe (arXiv 2206.15369).

`make docs` makes `docs/config.md` from this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from trex.config.loader import chosen_section, section, setting
from trex.config.probe_kinds import parse_probe_name

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
#: Name of a dataset: of a record, a folder, or one of torchvision's dataset classes.
DATASET = rf"(torchvision:)?{NAME}"

#: The datasets that a run is evaluated on by default: the sixteen datasets of the published table.
DEFAULT_DATASETS = (
    "in1k", "cog_l1", "cog_l2", "cog_l3", "cog_l4", "cog_l5", "aircraft", "cars196", "dtd", "eurosat", "flowers",
    "pets", "food101", "sun397", "inat2018", "inat2019",
)  # fmt: skip

#: Values of `extract.weights` that are not a file.
WEIGHTS_OF_RUN = ("trained", "untrained", "pixels")

Pair = tuple[float, float]


@dataclass(frozen=True)
class DataConfig:
    """Where the images are."""

    dataset: str = setting("in1k", "dataset to train on; its test split is the validation set", pattern=DATASET)
    root: str = setting("data", "folder that holds one folder per dataset", path=True, resumable=True)
    folders: dict[str, str] = setting(
        {}, "dataset name: its folder, if that is not <root>/<name>", path=True, resumable=True
    )
    subsets: tuple[str, ...] = setting(
        (), "datasets that may differ from the official image counts; results are marked as not comparable"
    )
    broken_images: Literal["refuse", "skip"] = setting(
        "refuse",
        "what to do about a file that is not a readable image (truncated, empty, not an image, too many pixels). "
        "refuse: end with an error that names it; skip: leave it out, and mark all results with the number of such "
        "images. A file that is missing, or that the system cannot read, is always an error",
        resumable=True,
    )
    workers: int = setting(8, "processes per rank that decode and crop images", at_least=0, resumable=True)


@dataclass(frozen=True)
class CropsConfig:
    """The crops of a training image, and the operations on each, in the order flip, jitter, gray, blur, solarize."""

    global_count: int = setting(1, "global crops per image", at_least=1)
    global_size: int = setting(224, "side of a global crop, pixels", at_least=8)
    global_scale: Pair = setting((0.40, 1.0), "share of the image's area in a global crop", above=0, at_most=1)
    local_count: int = setting(8, "local crops per image", at_least=0)
    local_size: int = setting(96, "side of a local crop, pixels", at_least=8)
    local_scale: Pair = setting((0.05, 0.40), "share of the image's area in a local crop", above=0, at_most=1)
    flip: float = setting(0.5, "probability of a horizontal flip", at_least=0, at_most=1)
    jitter: float = setting(0.8, "probability of color jitter", at_least=0, at_most=1)
    brightness: float = setting(0.4, "largest relative change of brightness", at_least=0, at_most=1)
    contrast: float = setting(0.4, "largest relative change of contrast", at_least=0, at_most=1)
    saturation: float = setting(0.2, "largest relative change of saturation", at_least=0, at_most=1)
    hue: float = setting(0.1, "largest shift of hue, in turns", at_least=0, at_most=0.5)
    grayscale: float = setting(0.2, "probability of grayscale", at_least=0, at_most=1)
    global_blur: float = setting(0.2, "probability of Gaussian blur of a global crop", at_least=0, at_most=1)
    local_blur: float = setting(0.5, "probability of Gaussian blur of a local crop", at_least=0, at_most=1)
    blur_radius: Pair = setting((0.1, 2.0), "range of the blur's radius, as Pillow counts it", above=0, at_most=20)
    solarize: float = setting(0.2, "probability of solarizing a global crop at 128", at_least=0, at_most=1)
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto",
        "where crops change colors and are blurred and solarized, with the same bytes. cpu: in the loader processes; "
        "cuda: on the GPU of the rank, so that these processes only decode and resize; auto: on the GPU, if it has "
        "fewer than 8 loader processes or CPUs",
        resumable=True,
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ranges whose first number is larger than the second."""
        for name in ("global_scale", "local_scale", "blur_radius"):
            low, high = getattr(self, name)
            if low > high:
                yield name, f"is [{low}, {high}]: expected the smaller number first"


@dataclass(frozen=True)
class ModelConfig:
    """The encoder."""

    encoder: str = setting(
        "resnet50",
        "a ResNet of torchvision, such as resnet18, resnet50, wide_resnet50_2; for evaluation only: a ViT of "
        "torchvision, such as vit_b_16, or timm/ and any model name of timm",
        pattern=rf"(timm/)?{NAME}",
    )


@dataclass(frozen=True)
class MethodSettings:
    """The training method. `trex/methods/` has one file per method, with the method's settings."""

    name: str


@dataclass(frozen=True)
class OptimizerConfig:
    """SGD with linear warm-up and cosine decay of the learning rate, which is set at every step."""

    lr: float = setting(0.1, "peak learning rate for a batch of 256; scaled by batch_size / 256", above=0)
    final_lr: float = setting(1e-6, "learning rate at the end", at_least=0)
    warmup_epochs: float = setting(10.0, "epochs of linear warm-up from 0", at_least=0)
    momentum: float = setting(0.9, "momentum of SGD", at_least=0, at_most=1)
    weight_decay: float = setting(1e-4, "L2 penalty; not applied to biases and 1-D parameters", at_least=0)


@dataclass(frozen=True)
class TrainConfig:
    """Length, batch and precision of the training."""

    epochs: int = setting(100, "passes over the training set", at_least=1)
    batch_size: int = setting(256, "images per step over all ranks; an incomplete last batch is dropped", at_least=1)
    accumulate: int = setting(
        1,
        "parts in which each process computes its part of the batch, one after the other, with one update per step; 4 "
        "lets one GPU run a recipe for four. Gradients and memory bank are those of the whole batch, but the batch "
        "norms of the trained networks see one part at a time (docs/adr/0037)",
        at_least=1,
    )
    precision: Literal["fp16", "bf16", "off"] = setting(
        "fp16", "mixed precision: fp16 (with gradient scaling), bf16, or off"
    )
    start: str | None = setting(
        None,
        "file to start training from instead of initial weights: an encoder's weights or a full checkpoint",
        path=True,
    )
    start_with: Literal["encoder", "weights", "all"] = setting(
        "encoder",
        "what to load from train.start. encoder: the encoder only; weights: also the method's modules that do not "
        "depend on the classes, such as a projector; all: everything, including optimizer, scaler and epoch, to "
        "continue that training. With encoder or weights, everything else is new and the first epoch is epoch 1",
    )
    key_map: str | None = setting(
        None, "as extract.key_map, for the encoder in train.start; only with train.start_with=encoder", path=True
    )
    seed: int = setting(
        0, "seed of the initial weights, the order of the images and the augmentation", at_least=0, at_most=2**32 - 1
    )
    deterministic: bool = setting(
        True,
        "use deterministic GPU kernels, so that a resumed run gives bit-identical results; false is faster",
    )
    cudnn_benchmark: bool | Literal["auto"] = setting(
        "auto",
        "let cuDNN measure its kernels and choose the fastest; auto: only if train.deterministic is false, because the "
        "choice may differ from start to start",
    )
    tf32: Literal["convolutions", "all", "off"] = setting(
        "convolutions",
        "where a GPU computes float32 in TF32, which keeps 10 of 23 bits: in convolutions (PyTorch's default), also in "
        "matrix products (all), or nowhere (off). Matters mostly for train.precision=off",
    )
    compile: bool = setting(
        False,
        "compile the encoder with torch.compile; the start takes minutes longer, and results are rounded differently",
    )
    validate_every: int = setting(1, "epochs between validations", at_least=1)
    validation_knn: int = setting(
        0,
        "neighbors of the k-NN accuracy of the encoder's features that each validation also measures, leave-one-out "
        "over the validation images (metric knn), such as 20; 0: not measured",
        at_least=0,
        resumable=True,
    )
    log_every: int = setting(50, "steps between log lines", at_least=1, resumable=True)
    allow_world_change: bool = setting(
        False,
        "allow resuming with another number of processes: same data order, but results are equal only up to rounding",
        resumable=True,
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        """A choice of kernels by time where all starts must choose the same kernels."""
        if self.cudnn_benchmark is True and self.deterministic:
            yield "cudnn_benchmark", "is true: expected train.deterministic to be false, or cudnn_benchmark auto"


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are saved. One is always saved at the end of an epoch and on interruption."""

    every_minutes: float | Literal["auto"] = setting(
        "auto",
        "minutes between checkpoints; 0: not by time; auto: chosen from how long a save takes and how often the run "
        "fails, and logged. At first 10, then between 1 and 30, or more where saves are slow (docs/checkpoints.md)",
        at_least=0,
    )
    every_steps: int = setting(0, "steps between checkpoints; 0: not by steps", at_least=0)
    keep: int = setting(2, "number of newest checkpoints to keep", at_least=1)
    milestone_epochs: int = setting(
        0, "epochs between checkpoints that are never deleted: every n-th epoch; 0: none", at_least=0
    )
    fallback_folder: str | None = setting(
        None,
        "absolute path of a folder on another file system that all nodes share. If the run folder takes no checkpoint "
        "at a stop or at the end, it is saved there, and the next start moves it into the run folder",
        pattern=r"[/~].*",
    )


@dataclass(frozen=True)
class LimitsConfig:
    """How long a process waits before it ends the job with an error, because something hangs."""

    start_seconds: float = setting(
        1800.0,
        "seconds for the start: until all processes are connected, each of them has listed the images, and the first "
        "step or batch is done",
        at_least=1,
    )
    step_seconds: float = setting(
        300.0,
        "seconds for each later step, including its batch. More than the longest pause of the file system. A save may "
        "take longer",
        at_least=1,
    )


@dataclass(frozen=True)
class ExtractConfig:
    """Extraction of the transfer datasets' features with the frozen encoder."""

    datasets: tuple[str, ...] = setting(
        DEFAULT_DATASETS, "datasets to extract and probe", pattern=DATASET, resumable=True
    )
    weights: str = setting(
        "trained",
        "trained: this run's encoder; untrained: its initial weights; pixels: no encoder, the features are the pixels; "
        "anything else: path of a weights file",
        path=True,
    )
    key_map: str | None = setting(
        None, "YAML or JSON file that maps the names in the weights file to the encoder's (docs/zoo.md)", path=True
    )
    preprocess: Literal["published", "model"] = setting(
        "published",
        "published: resize to 224 (bicubic) and center crop 224 for every encoder, as in the paper; model: the sizes "
        "and the interpolation that the weights were made for, as timm and torchvision state them. Mean and standard "
        "deviation are always those of the weights",
        resumable=True,
    )
    resize: int | None = setting(
        None,
        "shorter side after resizing, pixels; null: that of extract.preprocess, in proportion if extract.crop is set",
        at_least=8,
        resumable=True,
    )
    crop: int | None = setting(
        None, "side of the center crop, pixels; null: that of extract.preprocess", at_least=8, resumable=True
    )
    batch_size: int = setting(256, "images per forward pass and rank", at_least=1, resumable=True)
    dtype: Literal["float32", "float16"] = setting("float32", "type of the stored features", resumable=True)
    precision: Literal["off", "bf16", "fp16"] = setting(
        "off", "autocast of the encoder: off (float32, without TF32), bf16 or fp16; features record it", resumable=True
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        """A crop that is larger than the resized image, and the preprocessing of weights where there are none."""
        if self.crop and self.resize and self.crop > self.resize:
            yield "crop", f"is {self.crop}: expected at most extract.resize, {self.resize}"
        if self.preprocess == "model" and self.weights == "pixels":
            yield "preprocess", "is model, but extract.weights is pixels: expected published, because there is no model"


@dataclass(frozen=True)
class ProbeConfig:
    """Classification of the stored features."""

    kinds: tuple[str, ...] = setting(
        ("exact",),
        "probes of each dataset: exact (certified optimum of a path over C), published (the paper's search), both also "
        "with few training images per class (exact-5shot), and k nearest neighbors (knn20; knn20-t0.1 with another "
        "temperature than 0.07). On a dataset whose images have several classes (voc2007), only exact is fitted",
    )
    seeds: int = setting(
        5,
        "number of repetitions, each with its own validation images; k-NN has nothing random and runs once",
        at_least=1,
    )
    seeds_per_job: int = setting(
        0,
        "seeds of a dataset per Slurm job; 0: all seeds in one job if the seeds of every kind share work, one seed per "
        "job if the seeds of some kind do not (published)",
        at_least=0,
    )
    normalize: dict[str, bool] = setting(
        {},
        "dataset name: whether to L2-normalize its features for its probes, if that differs from its record (in1k, "
        "CoG, iNaturalist: true; all others: false)",
    )
    sgd: dict[str, bool] = setting(
        {},
        "dataset name: whether the published probes fit it with SGD (true) or L-BFGS (false), if that differs from its "
        "record (in1k, CoG, iNaturalist: true; all others: false)",
    )
    memory_gb: float = setting(
        16.0,
        "RAM that a probe may use, in GB; larger data is read and processed in pieces, which is slower",
        above=0,
    )
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", "where the exact probes compute; auto: on the GPU, if their job has one", resumable=True
    )

    at: Literal["final", "milestones"] = setting(
        "final",
        "final: probe the final encoder only; milestones: also probe the checkpoints of checkpoint.milestone_epochs, "
        "with the same kinds and seeds, while the training continues (on this machine: between two epochs)",
    )
    at_datasets: tuple[str, ...] = setting(
        (), "for milestones: the datasets to probe, some of extract.datasets; choose small ones", pattern=DATASET
    )
    at_keep_features: bool = setting(
        False, "for milestones: keep the features; otherwise they are deleted as soon as all their probes are done"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Names that match no kind of probe, or that occur twice; milestones without datasets."""
        if self.at == "milestones" and not self.at_datasets:
            yield "at", "is milestones: expected the datasets to probe in probe.at_datasets, such as [dtd, pets]"
        if not self.kinds:
            yield "kinds", "is empty: expected at least one kind of probe, such as exact"
        for name in self.kinds:
            try:
                parse_probe_name(name)
            except ValueError as error:
                yield "kinds", f"has {error}"
        for name in dict.fromkeys(self.kinds):
            if self.kinds.count(name) > 1:
                yield "kinds", f"has {name} twice: keep one"


@dataclass(frozen=True)
class Config:
    """One run: how an encoder is trained and how it is evaluated."""

    name: str = setting("run", "name of the run and of its folder", pattern=NAME)
    runs: str = setting("runs", "folder that holds one folder per run", path=True, resumable=True)
    data: DataConfig = section(DataConfig, "where the images are")
    crops: CropsConfig = section(CropsConfig, "multi-crop augmentation")
    model: ModelConfig = section(ModelConfig, "encoder")
    method: MethodSettings = chosen_section("trex.methods", "trex_class_means", "how the encoder is trained")
    optimizer: OptimizerConfig = section(OptimizerConfig, "SGD and its schedule")
    train: TrainConfig = section(TrainConfig, "length, batch, precision")
    checkpoint: CheckpointConfig = section(CheckpointConfig, "when checkpoints are saved", resumable=True)
    limits: LimitsConfig = section(LimitsConfig, "when a process that hangs ends the job", resumable=True)
    extract: ExtractConfig = section(ExtractConfig, "feature extraction")
    probe: ProbeConfig = section(ProbeConfig, "linear probes", resumable=True)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Problems between settings of different sections."""
        if self.optimizer.warmup_epochs > self.train.epochs:
            warmup, epochs = self.optimizer.warmup_epochs, self.train.epochs
            yield "optimizer", f"warms up for {warmup} epochs: expected at most train.epochs, {epochs}"
        if self.probe.at == "milestones":
            yield from self._milestone_problems()
        if self.extract.key_map and self.extract.weights in WEIGHTS_OF_RUN:
            yield (
                "extract",
                f"has key_map, but weights is {self.extract.weights}: expected a weights file, or no key_map",
            )
        if self.train.key_map and not (self.train.start and self.train.start_with == "encoder"):
            yield "train", "has key_map: expected train.start to be a file and train.start_with encoder, or no key_map"

    def _milestone_problems(self) -> Iterator[tuple[str, str]]:
        if not self.checkpoint.milestone_epochs:
            yield "probe", "has at: milestones: expected the epochs between them in checkpoint.milestone_epochs"
        if self.extract.weights != "trained":
            yield "probe", f"has at: milestones: expected extract.weights trained, got {self.extract.weights}"
        for name in self.probe.at_datasets:
            if name not in self.extract.datasets:
                yield "probe", f"has {name} in at_datasets: expected only datasets that are in extract.datasets too"
