"""The training loop: steps, validation, checkpoints, interruption. One process of N runs `train`."""

from __future__ import annotations

import inspect
import logging
import time
from dataclasses import replace
from enum import IntEnum
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from trex.config.compare import differences
from trex.config.schema import Config
from trex.datasets.registry import load_split
from trex.datasets.split import Split
from trex.distributed import Agreement, Ranks
from trex.errors import Interrupted, TrexError, UserError
from trex.images.normalize import normalize
from trex.interruption import StopRequest
from trex.loading.training import Batch, TrainingBatches
from trex.model.trex import TrexModel, build_model
from trex.records.events import CheckpointSaved, SaveReason, TrainingResumed, TrainingStarted
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoint, Checkpoints
from trex.training.metrics import Curves, Meter, duration
from trex.training.schedule import learning_rate
from trex.training.start import read_start
from trex.training.state import Position, TrainingState, make_optimizer, refuse_other_run
from trex.training.validation import validate

log = logging.getLogger(__name__)

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "off": None}
#: After so many checkpoints in a row that the disk did not take, the run ends instead of computing unsaved steps.
MAX_FAILED_SAVES = 3


class Wish(IntEnum):
    """What a rank wants at a step's end; the highest wish of all ranks is done by all."""

    GO_ON = 0
    SAVE = 1
    STOP = 2


def train(run: RunDir, config: Config, ranks: Ranks, stop: StopRequest) -> None:
    """Train from the newest checkpoint, or from the start, to the end. Does nothing when that is reached.

    Args:
        run: where checkpoints and metrics are.
        config: the recipe.
        ranks: this process's place among those that train together.
        stop: whether a signal asked to stop; looked at after every step.

    Raises:
        Interrupted: after a signal, when the state is saved; call it again to go on.
        ResumeRefused: the checkpoint on disk is of another config, dataset or number of processes.
        UserError: data or config do not fit.
        TrexError: the loss is not finite, or checkpoints cannot be written or read.
    """
    found = Checkpoints(run.checkpoints).newest() if ranks.is_main else None
    chosen = ranks.broadcast([str(found.path), found.finished] if found else None)
    if chosen and chosen[1]:
        log.info("training has finished before: nothing to do (%s)", chosen[0])
        return
    if ranks.is_main:
        Checkpoints(run.checkpoints).remove_unfinished()
    trainer = Trainer(run, config, ranks, stop)
    try:
        trainer.resume(chosen[0] if chosen else None)
        trainer.run_epochs()
    finally:
        trainer.close()


class Trainer:
    """One rank's training: built in full before the first step, then `resume`, then `run_epochs`."""

    def __init__(self, run: RunDir, config: Config, ranks: Ranks, stop: StopRequest) -> None:
        self.run, self.config, self.ranks, self.stop = run, config, ranks, stop
        _set_up_device(ranks, config)
        self.images = load_split(config.data.dataset, "trainval", config.data)
        self.validation_images = load_split(config.data.dataset, "test", config.data)
        self.batches = make_batches(config, self.images, ranks)
        model = build_model(config.model, len(self.images.classes), ranks, config.train.seed).to(ranks.device)
        self.amp = PRECISIONS[config.train.precision]
        self.state = TrainingState(
            model=model,
            optimizer=make_optimizer(model, config.optimizer, ranks.device),
            scaler=torch.amp.GradScaler(ranks.device.type, enabled=config.train.precision == "fp16"),
            position=Position(),
        )
        self.network = _wrap(model, ranks)
        self.checkpoints = Checkpoints(run.checkpoints)
        self.curves = Curves(run, ranks)
        self.meter = Meter(ranks)
        self.agreement = Agreement(ranks)
        self.start: dict[str, str] | None = None
        self.saved: Position | None = None
        self.saved_at = time.monotonic()
        self.failed_saves = 0
        self.logged = (0, time.monotonic())

    # ---- beginning and end

    def resume(self, path: str | None) -> None:
        """Go on from the checkpoint in the folder `path`, the same one on every rank, or begin anew: from initial
        weights, or from the file that `train.start` names.
        """
        position = 0
        if path is not None:
            saved = self.checkpoints.at(self.run.checkpoints / path).load()
            refuse_other_run(
                saved, differences(saved["config"], self.config), self.images.digest, self.ranks,
                self.config.train.allow_world_change,
            )  # fmt: skip
            self.state.restore(saved, self.ranks)
            position = saved["metrics_position"]
            self.meter.restore(saved["meter"])
            self.start = saved.get("start")
            self.saved = replace(self.state.position)
        elif self.config.train.start:
            self._begin_from_file()
        at = self.state.position
        self.curves.open(position, at.global_step)
        self.logged = (at.global_step, time.monotonic())
        if self.ranks.is_main:
            began = TrainingResumed if path else TrainingStarted
            began(round(time.time(), 3), at.global_step, at.epoch, self.start).append(self.run.events)
        log.info(
            "%s, %d x %s: %d images of %d classes, %d steps an epoch; beginning at epoch %d, step %d (%d in all)",
            self.config.model.encoder, self.ranks.world, self.ranks.device.type.upper(), len(self.images),
            len(self.images.classes), self.batches.steps_per_epoch, at.epoch + 1, at.step, at.global_step,
        )  # fmt: skip

    def _begin_from_file(self) -> None:
        state, steps = self.state, self.batches.steps_per_epoch
        start = read_start(self.config, state.model, self.images.classes, steps)
        if self.ranks.broadcast(start.sha256) != start.sha256:
            raise UserError(f"{start.file} is another file here than on rank 0: put it where all nodes see the same")
        start.apply(state)
        self.start = start.record
        log.info("training begins from %s, SHA-256 %s: %s", start.file, start.sha256, start.how)

    def close(self) -> None:
        """End the loader's workers and close the files."""
        self.batches.close()
        self.curves.close()

    # ---- the loop

    def run_epochs(self) -> None:
        """All steps that are left, with the validation after each epoch."""
        at, steps = self.state.position, self.batches.steps_per_epoch
        batches = iter(self.batches.starting_at(at.epoch, at.step) if at.step < steps else ())
        while at.epoch < self.config.train.epochs:
            if at.step == steps:  # stopped after the last step of an epoch, before its end was recorded
                self.end_epoch()
                batches = batches if at.step else iter(self.batches.starting_at(at.epoch, 0))
                continue
            self.step(next(batches))
            self.after_step()

    def step(self, batch: Batch) -> None:
        """Forward, backward, update. Queues work for the device and waits for none of it."""
        at, state = self.state.position, self.state
        assert (batch.epoch, batch.step) == (at.epoch, at.step), "the loader and the trainer disagree on the position"
        rate = learning_rate(
            at.global_step, self.batches.steps_per_epoch, self.config.train.epochs, self.config.optimizer,
            self.config.train.batch_size,
        )  # fmt: skip
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        device = self.ranks.device
        crops = [normalize(crop.to(device, non_blocking=True)) for crop in batch.crops]
        labels = batch.labels.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=self.amp, enabled=self.amp is not None):
            output = self.network(crops, labels)
        state.scaler.scale(output.loss).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        self.meter.add(at.global_step, output.loss, output.logits, labels)
        at.step += 1
        at.global_step += 1

    def after_step(self) -> None:
        """What happens between two steps: the log line, agreed wishes, checkpoints, the epoch's end."""
        at = self.state.position
        total = self.config.train.epochs * self.batches.steps_per_epoch
        if at.global_step % self.config.train.log_every == 0 or at.global_step == total:
            self.log_progress()
        wish = self.agreement.exchange(self.wish())
        if wish == Wish.STOP:
            self.save_and_stop()
        every = self.config.checkpoint.every_steps
        if wish == Wish.SAVE or (every and at.global_step % every == 0):
            self.save("timer")
        if at.step == self.batches.steps_per_epoch:
            self.end_epoch()

    def wish(self) -> Wish:
        """What this rank wants at this step's end."""
        if self.stop:
            return Wish.STOP
        minutes = self.config.checkpoint.every_minutes
        if self.ranks.is_main and minutes and time.monotonic() - self.saved_at > 60 * minutes:
            return Wish.SAVE
        return Wish.GO_ON

    def end_epoch(self) -> None:
        """Validate, move on to the next epoch, save."""
        at, config = self.state.position, self.config
        last = at.epoch + 1 == config.train.epochs
        if last or (at.epoch + 1) % config.train.validate_every == 0:
            self.validate()
        at.epoch, at.step = at.epoch + 1, 0
        every = config.checkpoint.milestone_epochs
        self.save("end" if last else "epoch", milestone=bool(every and at.epoch % every == 0), finished=last)
        if last:
            log.info("training has finished: %d epochs, %d steps", at.epoch, at.global_step)

    def validate(self) -> None:
        """Accuracy on the test split through the projector and the class weights."""
        at, size = self.state.position, self.config.crops.global_size
        self.agreement.finish()
        try:
            result = validate(
                self.state.model,
                self.validation_images,
                self.ranks,
                self.stop,
                resize=round(size * 256 / 224),
                crop=size,
                batch_size=self.config.train.batch_size // self.ranks.world,
                workers=self.config.data.workers,
                amp=self.amp,
            )
        except Interrupted:
            self.save_and_stop()
        values = {"top1": result.top1, "top5": result.top5, "loss": result.loss}
        self.curves.write("validation", at.global_step, at.epoch + 1, values)
        log.info(
            "epoch %d/%d validation: top-1 %.2f %%, top-5 %.2f %%, loss %.4f",
            at.epoch + 1, self.config.train.epochs, result.top1, result.top5, result.loss,
        )  # fmt: skip
        self.logged = (at.global_step, time.monotonic())

    # ---- records

    def log_progress(self) -> None:
        """One line of progress; the only place in the loop that waits for the device."""
        at, config = self.state.position, self.config
        loss, top1 = self.meter.take()
        now, (step, since) = time.monotonic(), self.logged
        rate = (at.global_step - step) / max(now - since, 1e-9)
        left = config.train.epochs * self.batches.steps_per_epoch - at.global_step
        self.logged = (at.global_step, now)
        values = {
            "loss": loss,
            "top1": top1,
            "lr": self.state.optimizer.param_groups[0]["lr"],
            "images_per_second": round(rate * config.train.batch_size, 1),
        }
        epoch = round(at.epoch + at.step / self.batches.steps_per_epoch, 4)
        self.curves.write("train", at.global_step, epoch, values)
        log.info(
            "epoch %d/%d step %d/%d: loss %.4f, top-1 %.1f %%, lr %.3g, %.0f images/s, %s left",
            at.epoch + 1, config.train.epochs, at.step, self.batches.steps_per_epoch, loss, top1, values["lr"],
            values["images_per_second"], duration(left / rate),
        )  # fmt: skip

    def save_and_stop(self) -> None:
        """Save on all ranks, then leave. Always raises Interrupted."""
        self.save("stop")
        raise Interrupted(f"saved at step {self.state.position.global_step}; the same command continues from there")

    def save(self, reason: SaveReason, milestone: bool = False, finished: bool = False) -> None:
        """Write a checkpoint, on all ranks together; a full disk is survived a few times, a loss that is not finite
        is never written.
        """
        self.agreement.finish()
        self.meter.require_finite()
        at = self.state.position
        if at == self.saved:
            return
        began = time.monotonic()
        state = self.state.to_dict(self.ranks, self.config, self.images.classes, self.images.digest)
        state["meter"] = self.meter.total()
        state["metrics_position"] = self.curves.position
        state["start"] = self.start
        problem = ""
        if self.ranks.is_main:
            try:
                keep = self.config.checkpoint.keep
                self._wrote(self.checkpoints.write(state, keep, milestone, finished), reason, began)
            except OSError as error:
                problem = str(error)
        problem = self.ranks.broadcast(problem)
        self.saved_at = time.monotonic()
        self.failed_saves = self.failed_saves + 1 if problem else 0
        if not problem:
            self.saved = replace(at)
        elif reason in ("stop", "end") or self.failed_saves >= MAX_FAILED_SAVES:
            raise TrexError(f"cannot write a checkpoint into {self.run.checkpoints}: {problem}")
        else:
            log.warning("cannot write a checkpoint (%s): going on, the next one is tried as planned", problem)

    def _wrote(self, checkpoint: Checkpoint, reason: SaveReason, began: float) -> None:
        now, seconds = time.time(), round(time.monotonic() - began, 3)
        since = None
        if reason == "stop" and self.stop.received_at is not None:
            since = round(now - self.stop.received_at, 3)
        CheckpointSaved(
            round(now, 3), self.state.position.global_step, reason, seconds, seconds_signal_to_saved=since
        ).append(self.run.events)
        log.info("saved %s in %.1f s", checkpoint.path.name, seconds)


def make_batches(config: Config, images: Split, ranks: Ranks) -> TrainingBatches:
    """The rank's batches. Raises UserError if the batch does not divide among the ranks or exceeds the data."""
    batch = config.train.batch_size
    if batch % ranks.world:
        raise UserError(f"train.batch_size is {batch}: it must be a multiple of the number of processes, {ranks.world}")
    if batch > len(images):
        raise UserError(f"train.batch_size is {batch}, but {images.dataset} has only {len(images)} training images")
    return TrainingBatches(images, config.crops, config.train.seed, batch, ranks.rank, ranks.world, config.data.workers)


def _wrap(model: TrexModel, ranks: Ranks) -> TrexModel | DistributedDataParallel:
    if ranks.world == 1:
        return model
    # Buffers are the same on all ranks by construction: batch norm is synchronized, the memory is gathered.
    modern = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
    still: dict[str, Any] = {"forward_sync_buffers": False} if modern else {"broadcast_buffers": False}
    # With unused parameters allowed, DDP keeps its first gradient buckets. It otherwise rearranges them after the
    # first step, and a resumed run would sum the gradients of its first step in another order (docs/adr/0004).
    return DistributedDataParallel(
        model, device_ids=[ranks.device] if ranks.device.type == "cuda" else None, find_unused_parameters=True, **still
    )


def _set_up_device(ranks: Ranks, config: Config) -> None:
    torch.manual_seed(config.train.seed * 100_003 + ranks.rank)
    if ranks.device.type == "cuda":
        torch.backends.cudnn.benchmark = not config.train.deterministic
        torch.use_deterministic_algorithms(config.train.deterministic, warn_only=True)
        # Filling memory before it is written is a help for debugging, at a price in each step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
