"""One attempt at training a run: the state, and what the loop does with it at a step."""

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from jaxcifar import devices, metrics
from jaxcifar.config import Durations
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.data.split import DatasetInfo, Split
from jaxcifar.errors import StoppedError
from jaxcifar.evaluate import Evaluator, Results
from jaxcifar.feed import Call, by_step, train_calls
from jaxcifar.program import Program
from jaxcifar.reporting.run_logger import RunLogger
from jaxcifar.reporting.throughput import Throughput
from jaxcifar.resilience import manifest, nonfinite, processes, signals
from jaxcifar.resilience.checkpoint import Checkpoints, Restored
from jaxcifar.resilience.failpoints import kill_at
from jaxcifar.resilience.lock import WriterLock
from jaxcifar.resilience.peers import Peers
from jaxcifar.resilience.signals import Signals


class Run(NamedTuple):
    """What all attempts of a run share; a rollback starts another attempt.

    Attributes:
      config: validated config.
      workdir: directory of this run alone.
      info: facts about the data set.
      splits: splits of the data set by name.
      fingerprints: fingerprint of each split.
      plan: length of the run, and the steps at which to log, evaluate and save.
      signals: signals that the process has received.
      peers: connection to the other processes.
      lock: lock on the workdir.
    """

    config: ConfigDict
    workdir: Path
    info: DatasetInfo
    splits: dict[str, Split | FolderSplit]
    fingerprints: dict[str, str]
    plan: Durations
    signals: Signals
    peers: Peers
    lock: WriterLock


class Attempt:
    """Training from one checkpoint onwards: owns the state, the step and the progress.

    Attributes:
      state: replicated `TrainState`.
      layers: replicated values of the layers at the last step, see `steps.TrainStep`.
      step: number of updates made.
      progress: what a checkpoint stores in addition to the state.
      results: metrics of the last evaluation; {} before the first.
    """

    def __init__(
        self,
        run: Run,
        program: Program,
        start: Restored,
        checkpoints: Checkpoints,
        log: RunLogger,
        evaluator: Evaluator | None = None,
    ):
        """Moves the state to the devices.

        Args:
          run: what all attempts share.
          program: functions built from the config.
          start: checkpoint to start from.
          checkpoints: checkpoints of the run.
          log: where metrics and messages go.
          evaluator: evaluates states of the run; None to make one.
        """
        self.config, self.plan, self.splits = run.config, run.plan, run.splits
        self.signals, self.peers, self._lock = run.signals, run.peers, run.lock
        self.program, self.checkpoints, self.log = program, checkpoints, log
        self.evaluator = evaluator or Evaluator(run.config, program, run.splits)
        self.throughput = Throughput()
        self.state, self.progress = devices.replicate(start.state), start.progress
        self.step = self.first_step = self.peers.step = start.step
        self.results: Results = {}
        self.layers: dict[str, Any] = {}
        self._left_out = nonfinite.LeftOutRow()
        self._in_flight: list[tuple[int, metrics.Sums]] = []
        self._workdir, self._run_manifest = run.workdir, manifest.to_carry(run.workdir)
        self._has_saved = manifest.saved_step(self._run_manifest) > 0

    @property
    def is_first_call(self) -> bool:
        """Whether only the first call, which compiles the step, has been made."""
        return self.step == self.first_step + 1

    def calls(self) -> Iterator[Call]:
        """Returns the calls of the compiled step up to the end of the run."""
        return train_calls(
            self.config,
            self.program,
            self.splits["train"],
            first_step=self.step,
            num_steps=self.plan.num_steps,
            next_due=self.plan.next_due,
        )

    def run_call(self, call: Call) -> None:
        """Starts the steps of a call; their sums are fetched later, by `collect`."""
        self.state, sums, self.layers = call.run(self.state)
        self._in_flight.append((self.step, sums))
        self.started(call.num_steps)
        self.peers.step = self.step

    def started(self, num_steps: int) -> None:
        """Counts steps that have been started.

        Raises:
          StoppedError: if a save failed, where `checkpoint.on_error` is stop.
        """
        self.step += num_steps
        self.throughput.add(num_steps * self.config.train.batch_size)
        self.log.show_step(self.step)
        self._report_failed_saves(stop=self.config.checkpoint.on_error == "stop")
        self._record_first_save()

    def has_work(self) -> bool:
        """Returns whether anything is to be done at this step besides training."""
        alone = self.is_signalled_alone()
        return any(self.plan.due(self.step)) or self.is_first_call or alone

    def collect(self) -> None:
        """Waits for the steps that were started and adds up their sums.

        Called before anything of these steps is written to the workdir.

        Raises:
          NonFinite, MovedError: see `count`.
        """
        steps = [(first_step, by_step(devices.fetch(sums))) for first_step, sums in self._in_flight]
        self.throughput.stop()
        self._in_flight = []
        self.count(steps)

    def count(self, steps: list[tuple[int, list[metrics.Sums]]]) -> None:
        """Adds up the sums of steps that have ended.

        Args:
          steps: the step that each call began with, and the sums of its steps, on the host.

        Raises:
          NonFinite: if a step's numbers are not finite, unless such steps are skipped.
          MovedError: if the workdir was moved or removed.
        """
        self._lock.check()
        for first_step, done in steps:
            self._left_out.add(first_step, done)
        if warning := self._left_out.warning():
            scale = float(devices.fetch(self.state.loss_scale.scale))
            self.log.print(f"warning: {warning}; the loss scale is now {scale:.4g}")
        for first_step, done in steps:
            nonfinite.check_steps(
                self.config.train, first_step, done, self.progress.skipped_steps, self.state
            )
            self.progress = self.progress.add(done)

    def log_training(self) -> None:
        """Logs the training metrics of all steps since the last log line."""
        train_sums = self.progress.train_sums
        scalars = metrics.summarize(train_sums) if train_sums else {}
        scalars["learning_rate"] = float(self.program.learning_rate(self.step - 1))
        if self.program.loss_scale:
            scalars["loss_scale"] = float(devices.fetch(self.state.loss_scale.scale))
        if self.config.train.on_nonfinite == "skip":
            scalars["skipped_steps"] = self.progress.skipped_steps
        seconds_left = None
        if rate := self.throughput.rate():
            scalars["images_per_second"] = rate
            images_left = (self.plan.num_steps - self.step) * self.config.train.batch_size
            seconds_left = images_left / rate
        self.log.log_train(self.step, scalars | devices.memory(), seconds_left)
        self.progress = dataclasses.replace(self.progress, train_sums={})

    def log_layers(self) -> None:
        """Logs the layers' statistics of the last step and, if asked for, their histograms."""
        self.log.log_layers(self.step, devices.fetch(self.layers["statistics"]))
        if self.config.log.histograms:
            arrays = devices.fetch((self.state.params, self.layers["gradients"]))
            self.log.log_histograms(self.step, *arrays)

    def evaluate(self) -> bool:
        """Evaluates and logs; returns whether the validation score is the best so far.

        Raises:
          NonFinite: if the metrics are not finite, unless such steps are skipped and this is not
            the last one.
        """
        self.results = self.evaluator(self.state)
        for name, scalars in self.results.items():
            self.log.log_evaluation(self.step, name, scalars)
        self._check_results(is_last=self.step == self.plan.num_steps)
        if "validation" not in self.results:
            return False
        metric = self.config.eval.best_metric
        score = self.results["validation"][metric]
        self.progress = self.progress.evaluated(
            self.step,
            -score if metric == "loss" else score,
            self.config.train.early_stopping_min_delta,
        )
        return self.progress.best_step == self.step

    def last_results(self) -> Results:
        """Returns the metrics of the last evaluation, which is made now if there was none.

        Raises:
          NonFinite: if they are not finite.
        """
        self.results = self.results or self.evaluator(self.state)
        self._check_results(is_last=True)
        return self.results

    def _check_results(self, *, is_last: bool) -> None:
        train = self.config.train
        if warning := nonfinite.check_evaluation(train, self.step, self.results, is_last=is_last):
            self.log.print(f"warning: {warning}")

    def save(self) -> None:
        """Starts saving the state and the progress, once the previous save has ended.

        Raises:
          NonFinite: if the state is not finite.
          StoppedError: if the previous save failed, where `checkpoint.on_error` is stop.
          MovedError: if the workdir was moved or removed.
        """
        state = devices.fetch(self.state)
        nonfinite.check_state(self.step, state)
        self.checkpoints.wait()
        self._report_failed_saves(stop=self.config.checkpoint.on_error == "stop")
        self._lock.check()
        carried = {"run_manifest": self._run_manifest, "rows": self.log.rows()}
        # The rows come first: a checkpoint must not know of any that a power cut can take away.
        self.checkpoints.save(self.step, state, self.progress, carried, before=self.log.sync)

    def is_out_of_patience(self) -> bool:
        """Returns whether early stopping ends the run."""
        patience = self.config.train.early_stopping_patience
        return 0 < patience <= self.progress.stale_evaluations

    def print_early_stop(self) -> None:
        """Prints why and where the run stops early."""
        self.log.print(
            f"stopping early at step {self.step:,}: no better validation "
            f"{self.config.eval.best_metric} in {self.progress.stale_evaluations} evaluations; the "
            f"best was at step {self.progress.best_step:,}"
        )

    def is_signalled_alone(self) -> bool:
        """Returns whether a signal has arrived and there is no other process to agree with."""
        return bool(self.signals.received) and jax.process_count() == 1

    def agreed_signal(self) -> int:
        """Returns the number of a signal that any process has received; 0 if there is none.

        Processes of one run call this together, at the same steps.
        """
        signalled = max(processes.gather_int(self.signals.received))
        if signalled:
            kill_at("signalled")
        return signalled

    def stop_if_signalled(self, number: int) -> None:
        """Ends the run, whose state is saved, if a signal was received before the last step.

        Raises:
          StoppedError: naming the signal and the step.
        """
        if not number or self.first_step < self.step == self.plan.num_steps:
            return
        if self.step > self.first_step:
            self.finish_saves()
            processes.barrier()
        raise StoppedError(
            f"interrupted by {signals.describe(number)} at step {self.step:,} of "
            f"{self.plan.num_steps:,}; rerun the same command to resume",
            code=128 + number,
        )

    def finish_saves(self) -> None:
        """Waits for the save of the current step to end, and reports all failed saves.

        Raises:
          StoppedError: if that save failed or, where `checkpoint.on_error` is stop, any save did.
          MovedError: if the workdir was moved or removed.
        """
        is_missing = self.step not in self.checkpoints.steps()
        self._lock.check()
        self._record_first_save()
        self._report_failed_saves(stop=is_missing or self.config.checkpoint.on_error == "stop")

    def _record_first_save(self) -> None:
        """Records in the manifest that the run has a checkpoint; see `resume.check_workdir`."""
        if not self._has_saved and (step := self.checkpoints.saved_step()):
            self._has_saved = True
            with suppress(OSError):  # a save that fails is reported as such
                manifest.update(self._workdir, first_checkpoint=step)

    def _report_failed_saves(self, *, stop: bool) -> None:
        while failure := self.checkpoints.failure():
            self._lock.check()  # if the workdir is gone, that is why
            if stop and failure.lost:
                raise StoppedError(
                    f"error: {failure}\nTraining stopped. Fix the problem and rerun the same "
                    "command to resume from the last intact checkpoint.",
                    at_once=self.checkpoints.stalled,
                ) from failure
            self.log.print(f"warning: {failure}")
