"""The training loop: steps, validation, checkpoints, interruption. Every process runs `train`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import torch

from trex.config.schema import Config
from trex.distributed import Ranks
from trex.errors import Interrupted, TrexError, UserError
from trex.images.preprocessing import Geometry
from trex.interruption import StopRequest
from trex.loading.listing import list_splits
from trex.loading.staging import Staging
from trex.loading.training import Batch
from trex.loading.workers import take
from trex.records.events import CheckpointSaved, SaveReason, TrainingResumed, TrainingStarted, record
from trex.records.metrics import SKIPPED
from trex.records.run_dir import RunDir
from trex.training.batches import make_batches
from trex.training.checkpoint import Checkpoint, Checkpoints, State
from trex.training.evaluation import Evaluation
from trex.training.finite import FiniteChecks
from trex.training.metrics import BrokenImages, Curves, Meter
from trex.training.network import build_network, set_up_device
from trex.training.resume import Found, find
from trex.training.saving import LAST_SAVES, Request, Saving
from trex.training.scaler import CountingScaler
from trex.training.schedule import learning_rate
from trex.training.space import checkpoint_bytes, require_place_for_checkpoints
from trex.training.start import read_start
from trex.training.state import Position, TrainingState, make_optimizer
from trex.training.step import Step
from trex.training.validation import validate
from trex.wording import duration

log = logging.getLogger(__name__)


def train(
    run: RunDir, config: Config, ranks: Ranks, stop: StopRequest, evaluation: Evaluation | None = None,
    staging: Staging | None = None,
) -> None:  # fmt: skip
    """Train to the last epoch, from the newest checkpoint if there is one. Does nothing if the training has finished.

    Args:
        run: the run folder, with checkpoints and metrics.
        config: the config of the run.
        ranks: this process's rank and the collectives over all ranks.
        stop: true once a signal has asked to stop; checked before every step, and while waiting for a batch.
        evaluation: evaluates milestone checkpoints, on every rank or on none. Its failures never end the training.
        staging: where each node keeps copies of packs; None: they are read in place.

    Raises:
        Interrupted: a signal asked to stop and the state is saved. Call `train` again to continue.
        ResumeRefused: the checkpoint is from another config, dataset or number of processes.
        UserError: the config is wrong or does not fit the data.
        TrexError: the loss is not finite, checkpoints cannot be written or read, or a loader process hangs.
    """
    checkpoints = Checkpoints(run.checkpoints)
    found = find(run, config, checkpoints, ranks)
    if found and found.finished:
        log.info("training has already finished: nothing to do (%s)", found.path)
        return
    trainer = Trainer(run, config, ranks, stop, evaluation, staging, checkpoints)
    try:
        require_place_for_checkpoints(run.checkpoints, config, checkpoint_bytes(trainer.state.model), ranks)
        trainer.resume(found)
        if found:
            trainer.evaluate_milestones()  # what the last start could not ask for
        trainer.run_epochs()
        if evaluation is not None and ranks.is_main:
            evaluation.finish()
    finally:
        trainer.close()


class Trainer:
    """The training of one rank. The constructor builds everything; then call `resume`, `run_epochs` and `close`."""

    def __init__(
        self, run: RunDir, config: Config, ranks: Ranks, stop: StopRequest, evaluation: Evaluation | None = None,
        staging: Staging | None = None, checkpoints: Checkpoints | None = None,
    ) -> None:  # fmt: skip
        self.run, self.config, self.ranks, self.stop, self.evaluation = run, config, ranks, stop, evaluation
        self.checkpoints = checkpoints or Checkpoints(run.checkpoints)
        set_up_device(ranks, config)
        splits = list_splits(config.data.dataset, config.data, ranks, stop, staging)
        self.images, self.validation_images = splits["trainval"], splits["test"]
        self.batches = make_batches(config, self.images, ranks, stop)
        model = build_network(config, len(self.images.classes), ranks, config.train.seed)
        if config.train.compile:
            model.compile_encoders()
        self.state = TrainingState(
            model=model,
            optimizer=make_optimizer(model, config.optimizer),
            scaler=CountingScaler(ranks.device.type, enabled=config.train.precision == "fp16"),
            position=Position(),
        )
        self.steps = Step(self.state, config.train, ranks)
        self.saving = Saving(self.checkpoints, config.checkpoint, ranks, self._record_save)
        self.curves = Curves(run, ranks)
        self.meter = Meter(ranks)
        self.finite = FiniteChecks(run, self.state, self.meter, ranks)
        self.broken = BrokenImages()
        self.start: dict[str, str] | None = None
        #: Steps in total, and time, of the last log line. What is no step, such as a save, moves the time forward.
        self.last_log = (0, time.monotonic())

    # ---- start and end

    def resume(self, found: Found | None) -> None:
        """Continue from a checkpoint, or start the run. Every rank must call it.

        Args:
            found: the checkpoint. None starts the run with the file `train.start`, or with initial weights if that is
                not set.
        """
        position, unwritten = 0, []
        if found is not None:
            saved = found.state(self.config, self.images.digest, self.ranks)
            self.state.restore(saved, self.ranks)
            position, unwritten = saved["metrics_position"], saved.get("metrics_unwritten", [])
            self.meter.restore(saved["meter"])
            self.start = saved.get("start")
        elif self.config.train.start:
            self._start_from_file()
        at = self.state.position
        self.curves.open(position, at.global_step, unwritten)
        self.last_log = (at.global_step, time.monotonic())
        if self.ranks.is_main:
            event = TrainingResumed if found else TrainingStarted
            record(event(round(time.time(), 3), at.global_step, at.epoch, self.start), self.run.events)
        self.saving.begin(at, on_disk=found is not None)
        log.info(
            "%s, %s, %d x %s: %d images of %d classes, %d steps per epoch; starting at epoch %d, step %d (%d in total)",
            self.config.method.name, self.config.model.encoder, self.ranks.world, self.ranks.device.type.upper(),
            len(self.images), len(self.images.classes), self.batches.steps_per_epoch, at.epoch + 1, at.step,
            at.global_step,
        )  # fmt: skip

    def _start_from_file(self) -> None:
        state, steps = self.state, self.batches.steps_per_epoch
        start = read_start(self.config, state.model, self.images.classes, steps)
        if self.ranks.broadcast(start.record) != start.record:
            raise UserError(
                f"{start.file} differs from the file with the same name on rank 0: put it on a file system that all "
                f"nodes share"
            )
        start.apply(state)
        self.start = start.record
        log.info("training starts from %s, SHA-256 %s, train.start_with=%s", start.file, start.sha256, start.how)
        if start.key_map:
            log.info("its names are mapped by %s, SHA-256 %s", *start.key_map.values())

    def close(self) -> None:
        """Stop the loader's workers, let a checkpoint be written that is under way after an error, close the files."""
        self.batches.close()
        self.ranks.limit.pause()
        self.saving.close(self.ranks.limit.seconds)
        self.curves.close()
        if self.evaluation is not None and self.ranks.is_main:
            self.evaluation.stop()

    # ---- the loop

    def run_epochs(self) -> None:
        """Run all remaining steps, with validation at the end of epochs."""
        at, steps = self.state.position, self.batches.steps_per_epoch
        batches = iter(self.batches.starting_at(at.epoch, at.step) if at.step < steps else ())
        while at.epoch < self.config.train.epochs:
            if at.step == steps:  # the run was stopped after the last step of an epoch, before `end_epoch` was done
                self.end_epoch()
                batches = batches if at.step else iter(self.batches.starting_at(at.epoch, 0))
                continue
            self.step(self.next_batch(batches))
            self.after_step()

    def next_batch(self, batches: Iterator[Batch | None]) -> Batch:
        """Wait for the next batch, then save or stop before its step if any rank asks for it.

        If a rank gets no batch, all ranks save and end with its error.
        """
        batch = None
        while batch is None:
            self.ranks.limit.next_batch()
            batch, problem = take(batches)
            try:
                request = Request(self.ranks.agree(self.saving.request(bool(self.stop)), problem))
            except TrexError:
                if self.state.position.global_step:
                    self.save("stop")
                raise
            if request == Request.STOP:
                self.save_and_stop()
            if request == Request.SAVE:
                self.save("timer")
            if request == Request.FINISH:
                self.saving.finish()
        return batch

    def step(self, batch: Batch) -> None:
        """Run one training step: forward, backward, update. Queues work for the device and does not wait for it."""
        at = self.state.position
        assert (batch.epoch, batch.step) == (at.epoch, at.step), "the loader and the trainer have different positions"
        rate = learning_rate(
            at.global_step, self.batches.steps_per_epoch, self.config.train.epochs, self.config.optimizer,
            self.config.train.batch_size,
        )  # fmt: skip
        last = at.global_step + 1 == self.total_steps
        output = self.steps.run(batch, rate, lambda: self.finite.gradients(last))
        self.meter.add(at.global_step, output)
        self.broken.add(batch.broken)
        at.step += 1
        at.global_step += 1

    def after_step(self) -> None:
        """Log, save or end the epoch, if one of these is due after this step."""
        at = self.state.position
        if at.global_step % self.config.train.log_every == 0 or at.global_step == self.total_steps:
            self.log_progress()
        if self.saving.is_due(at.global_step):
            self.save("timer")
        if at.step == self.batches.steps_per_epoch:
            self.end_epoch()

    def end_epoch(self) -> None:
        """Validate if it is due, count the epoch, save, and let a milestone be evaluated."""
        at, config = self.state.position, self.config
        last = at.epoch + 1 == config.train.epochs
        if self.skip_broken:
            self.record_broken()
        if last or (at.epoch + 1) % config.train.validate_every == 0:
            self.validate()
        at.epoch, at.step = at.epoch + 1, 0
        self.save("end" if last else "epoch")
        if last:
            log.info("training has finished: %d epochs, %d steps", at.epoch, at.global_step)
        elif self.saving.is_milestone(at):
            self.evaluate_milestones()

    def evaluate_milestones(self) -> None:
        """Start the evaluation of the milestones that lack it, and wait for it where it shares this machine.

        Every rank must call it, at a position that is saved.
        """
        if self.evaluation is None:
            return
        self.saving.finish()
        if self.ranks.is_main:
            self.evaluation.start()
        waited = False
        while self.ranks.maximum(int(self.ranks.is_main and self.evaluation.holds_training())):
            if self.ranks.maximum(int(bool(self.stop))):
                self.save_and_stop()
            if not waited and self.ranks.device.type == "cuda":
                torch.cuda.empty_cache()  # for the processes that evaluate
            waited = True
            time.sleep(0.2)
        if waited:
            self.last_log = (self.state.position.global_step, time.monotonic())

    @property
    def total_steps(self) -> int:
        """The number of steps of the whole training."""
        return self.config.train.epochs * self.batches.steps_per_epoch

    @property
    def skip_broken(self) -> bool:
        """Whether broken images are skipped."""
        return self.config.data.broken_images == "skip"

    def record_broken(self) -> None:
        """Write the number of training images that others replace, if there are any."""
        at = self.state.position
        if count := self.broken.count(self.ranks):
            self.curves.write("train", at.global_step, at.epoch + 1, {SKIPPED: count})
            log.warning("%d training images are broken; the next image takes the place of each", count)

    def validate(self) -> None:
        """Measure and record the accuracy on the test split."""
        at, size = self.state.position, self.config.crops.global_size
        try:
            result = validate(
                self.state.model, self.validation_images, self.ranks, self.stop,
                geometry=Geometry(resize=round(size * 256 / 224), crop=size, interpolation="bilinear"),
                batch_size=self.config.train.batch_size // self.ranks.world, workers=self.config.data.workers,
                amp=self.steps.amp, knn=self.config.train.validation_knn, skip_broken=self.skip_broken,
            )  # fmt: skip
        except Interrupted:
            self.save_and_stop()
        except TrexError:  # on every rank
            self.save("stop")
            raise
        values = {"top1": result.top1, "top5": result.top5, "loss": result.loss}
        if result.knn is not None:
            values["knn"] = result.knn
        if result.skipped:
            values[SKIPPED] = result.skipped
        self.curves.write("validation", at.global_step, at.epoch + 1, values)
        log.info(
            "epoch %d/%d validation: top-1 %.2f %%, top-5 %.2f %%, loss %.4f%s",
            at.epoch + 1, self.config.train.epochs, result.top1, result.top5, result.loss,
            "" if result.knn is None else f", k-NN {result.knn:.2f} %",
        )  # fmt: skip
        self.last_log = (at.global_step, time.monotonic())

    # ---- logs and checkpoints

    def log_progress(self) -> None:
        """Log one line of progress. This is the only place in the loop that waits for the device."""
        at, config = self.state.position, self.config
        if self.evaluation is not None and self.ranks.is_main:
            self.evaluation.holds_training()  # logs a failure
        scaling = self.finite.progress()
        means = self.meter.take()
        now, (step, since) = time.monotonic(), self.last_log
        rate = (at.global_step - step) / max(now - since, 1e-9)
        self.last_log = (at.global_step, now)
        self.saving.compare_with_lead(self.stop.lead_seconds, 1 / max(rate, 1e-9))
        values = {
            **means,
            **scaling,
            "lr": self.state.optimizer.param_groups[0]["lr"],
            "images_per_second": round(rate * config.train.batch_size, 1),
        }
        epoch = round(at.epoch + at.step / self.batches.steps_per_epoch, 4)
        self.curves.write("train", at.global_step, epoch, values)
        log.info(
            "epoch %d/%d step %d/%d: %s, lr %.3g, %.0f images/s, %s left",
            at.epoch + 1, config.train.epochs, at.step, self.batches.steps_per_epoch,
            ", ".join([f"{name} {value:.4f}" for name, value in means.items()]
                      + [f"{name} {value:g}" for name, value in scaling.items()]), values["lr"],
            values["images_per_second"], duration((self.total_steps - at.global_step) / rate),
        )  # fmt: skip

    def save_and_stop(self) -> None:
        """Save on all ranks, then raise Interrupted."""
        if not self.state.position.global_step:
            raise Interrupted("stopped before the first step; the same command starts it")
        self.save("stop")
        raise Interrupted(
            f"saved at step {self.state.position.global_step}; run the same command to continue from there"
        )

    def save(self, reason: SaveReason) -> None:
        """Save unless this position is already saved or being written. Every rank must call it.

        At a stop and at the end, the checkpoint is on disk when this returns. Otherwise it is written while the
        training continues, and an error of that is raised before a later step.

        Raises:
            TrexError: if the state is not finite (see `FiniteChecks`), or the checkpoint cannot be written (see
                `Saving.write`).
        """
        at, is_last = self.state.position, reason in LAST_SAVES
        begun, (step, since) = time.monotonic(), self.last_log
        if is_last or not self.saving.is_saved(at):
            self.saving.finish(is_last)
        if self.saving.is_saved(at):
            return
        self.finite.before_save(reason == "end", later=not is_last)
        state = self.state.to_dict(self.ranks, self.config, self.images.classes, self.images.digest)
        state["meter"] = self.meter.total()
        state["metrics_position"] = self.curves.position if is_last else self.curves.position_now()
        state["metrics_unwritten"] = self.curves.unwritten
        state["start"] = self.start
        self.saving.write(state, at, reason, begun, None if is_last else self._before_write)
        self.last_log = (step, since + time.monotonic() - begun)

    def _before_write(self, copied: State) -> str:
        """What the thread does before it writes. Returns why the copied state must not be saved, or an empty text."""
        self.curves.flush()
        return self.finite.refusal(copied)

    def _record_save(self, checkpoint: Checkpoint, reason: SaveReason, seconds: float) -> None:
        now, since = time.time(), None
        if reason == "stop" and self.stop.received_at is not None:
            since = round(now - self.stop.received_at, 3)
        saved = CheckpointSaved(
            round(now, 3), checkpoint.manifest.step, reason, round(seconds, 3), seconds_signal_to_saved=since
        )
        record(saved, self.run.events)
        log.info("saved %s in %.1f s", checkpoint.path.name, seconds)
