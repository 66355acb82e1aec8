"""The training loop, to be read from top to bottom."""

import dataclasses
import signal
from pathlib import Path
from typing import NamedTuple

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from jaxcifar import devices, environment, metrics
from jaxcifar.config import Durations, durations
from jaxcifar.config.validation import validate
from jaxcifar.data import datasets
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.data.split import Split
from jaxcifar.errors import StoppedError
from jaxcifar.evaluate import Evaluator, Results
from jaxcifar.feed import Call, by_step, train_calls
from jaxcifar.kernels import backend, native
from jaxcifar.program import Program, create_program
from jaxcifar.reporting.format import describe
from jaxcifar.reporting.run_logger import RunLogger
from jaxcifar.reporting.throughput import Throughput
from jaxcifar.resilience import nonfinite, processes
from jaxcifar.resilience.checkpoint import Checkpoints, Restored
from jaxcifar.resilience.failpoints import kill_at
from jaxcifar.resilience.lock import WriterLock
from jaxcifar.resilience.manifest import check_config, check_data, record_end, record_start
from jaxcifar.resilience.nonfinite import NonFinite
from jaxcifar.resilience.peers import Peers
from jaxcifar.resilience.signals import Signals
from jaxcifar.steps import TrainState


class Run(NamedTuple):
    """What all attempts of a run share; a rollback starts another attempt.

    Attributes:
      config: validated config.
      workdir: directory of this run alone.
      splits: splits of the data set by name.
      fingerprints: fingerprint of each split.
      plan: length of the run, and the steps at which to log, evaluate and save.
      signals: signals that the process has received.
      peers: connection to the other processes.
    """

    config: ConfigDict
    workdir: Path
    splits: dict[str, Split | FolderSplit]
    fingerprints: dict[str, str]
    plan: Durations
    signals: Signals
    peers: Peers


def train(config: ConfigDict, workdir: Path, *, accept_config_change: bool = False) -> Results:
    """Trains what a config describes, from the last checkpoint in `workdir` if there is one.

    Leaves in the workdir: `checkpoints/`, `metrics.csv`, TensorBoard event files,
    `parameters.txt` and `manifest.json`.

    Args:
      config: see `config.default`.
      workdir: directory of this run alone; created if it is missing.
      accept_config_change: resume even if the config differs from the one the run was started with.

    Returns:
      The metrics of each split except the training split, at the last step.

    Raises:
      InputError: if the config is invalid or differs from the run's, the data is missing or differs
        from the run's, or another process trains in the workdir; as `NonFinite`, if the numbers of
        a step are not finite and `train.on_nonfinite` says so.
      StoppedError: after SIGTERM or SIGINT, once the state is saved; or if it cannot be saved.
    """
    validate(config)
    check_config(workdir, config, accept=accept_config_change)
    if config.train.deterministic:
        environment.make_deterministic()
    with (
        Peers(config.train.distributed, config.train.peer_timeout_seconds) as peers,
        WriterLock(workdir, active=peers.process == 0) as lock,
        Signals() as signals,
    ):
        processes.barrier()
        return _train(config, workdir, lock, signals, peers)


def _train(
    config: ConfigDict, workdir: Path, lock: WriterLock, signals: Signals, peers: Peers
) -> Results:
    """Loads the data and makes attempts until one reaches the end."""
    devices.check_batch_size("train.batch_size", config.train.batch_size)
    devices.check_batch_size(
        "train.batch_size / train.accumulation_steps",
        config.train.batch_size // config.train.accumulation_steps,
    )
    info = datasets.info(config.dataset)
    splits = datasets.load(config.dataset)
    fingerprints = datasets.fingerprints(splits)
    check_data(workdir, fingerprints)
    plan = durations(config, splits["train"].size)
    lock.acquire()
    run = Run(config, workdir, splits, fingerprints, plan, signals, peers)
    factors = nonfinite.rate_factors(workdir)
    while True:
        program = create_program(config, info, plan, factors)
        try:
            results, step, state = _attempt(run, program)
            break
        except NonFinite as error:
            steps = Checkpoints(workdir / "checkpoints", create=False).steps()
            last_saved = processes.gather_int(max(steps, default=-1))[0]
            factors = nonfinite.roll_back(config, workdir, factors, error, last_saved)
    # The checkpoints are closed, so all of them are on the disk.
    if jax.process_index() == 0:
        record_end(workdir, step, state, results)
    processes.barrier()
    return results


def _attempt(run: Run, program: Program) -> tuple[Results, int, TrainState]:
    """Trains from the last checkpoint; returns the results, the last step and the fetched state."""
    config, workdir, plan = run.config, run.workdir, run.plan
    is_first_process = jax.process_index() == 0
    with Checkpoints(
        workdir / "checkpoints",
        keep_every=plan.keep_every,
        timeout=config.checkpoint.timeout_seconds,
    ) as checkpoints:
        start = checkpoints.restore_latest(program.create_state)
        if is_first_process:
            overview = parameter_overview.get_parameter_overview(start.state.params)
            (workdir / "parameters.txt").write_text(overview + "\n")
            record_start(workdir, config, start.step, run.fingerprints)
        with RunLogger(
            workdir,
            first_step=start.step,
            num_steps=plan.num_steps,
            steps_per_epoch=plan.steps_per_epoch,
            tensorboard=config.log.tensorboard,
            active=is_first_process,
            layers=plan.layer_stats_every > 0,
            allow_zero=config.model.stochastic_depth > 0,
            histograms=config.log.histograms,
        ) as log:
            _print_start(run, start, log)
            attempt = Attempt(run, program, start, checkpoints, log)
            try:
                results = _loop(attempt)
            except NonFinite as error:
                _stop_if_saving(checkpoints, error)
                raise
            for name, scalars in results.items():
                log.print(f"done: {name} {describe(scalars)}")
            log.print(f"{workdir} has checkpoints/, metrics.csv, parameters.txt, manifest.json")
            if log.writes_events:
                log.print(f"curves: tensorboard --logdir {workdir}")
            attempt.finish_saves()
    return results, attempt.step, devices.fetch(attempt.state)


def _loop(attempt: "Attempt") -> Results:
    """Trains to the end, or until early stopping or a signal; returns the last results."""
    if attempt.is_out_of_patience():
        attempt.log.print(f"stopped early before step {attempt.step:,}")
        return attempt.evaluator(attempt.state)
    attempt.stop_if_signalled(attempt.agreed_signal())

    for call in attempt.calls():
        attempt.run_call(call)
        due = attempt.plan.due(attempt.step)
        if not (any(due) or attempt.is_first_call or attempt.is_signalled_alone()):
            continue
        attempt.collect()
        if due.log:
            attempt.log_training()
        if due.layer_stats:
            attempt.log_layers()
        is_best = due.evaluate and attempt.evaluate()
        stops_early = due.evaluate and attempt.is_out_of_patience()
        signalled = attempt.agreed_signal()
        if due.save or is_best or stops_early or signalled:
            attempt.save()
        if stops_early:
            attempt.print_early_stop()
            break
        attempt.stop_if_signalled(signalled)
        attempt.throughput.start()

    return attempt.results or attempt.evaluator(attempt.state)


class Attempt:
    """Training from one checkpoint on: owns the state, the step and the progress.

    Attributes:
      state: replicated `TrainState`.
      step: number of updates made.
      progress: what a checkpoint stores beside the state.
      results: metrics of the last evaluation; {} before the first.
    """

    def __init__(
        self, run: Run, program: Program, start: Restored, checkpoints: Checkpoints, log: RunLogger
    ):
        """Moves the state to the devices.

        Args:
          run: what all attempts share.
          program: functions built from the config.
          start: checkpoint to start from.
          checkpoints: checkpoints of the run.
          log: where metrics and messages go.
        """
        self.config, self.plan, self.splits = run.config, run.plan, run.splits
        self.signals, self.peers = run.signals, run.peers
        self.program, self.checkpoints, self.log = program, checkpoints, log
        self.evaluator = Evaluator(run.config, program, run.splits)
        self.throughput = Throughput()
        self.state, self.progress = devices.replicate(start.state), start.progress
        self.step = self.first_step = self.peers.step = start.step
        self.results: Results = {}
        self._in_flight: list[tuple[int, metrics.Sums]] = []

    @property
    def is_first_call(self) -> bool:
        """Whether the last call was the first, which has compiled."""
        return self.step == self.first_step + 1

    def calls(self):
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
        self.state, sums, self._layers = call.run(self.state)
        self._in_flight.append((self.step, sums))
        self.step += call.num_steps
        self.peers.step = self.step
        self.throughput.add(call.num_steps * self.config.train.batch_size)
        self.log.show_step(self.step)
        self._report_failed_saves(stop=self.config.checkpoint.on_error == "stop")

    def collect(self) -> None:
        """Waits for the steps that were started and adds up their sums.

        Raises:
          NonFinite: if a step's numbers are not finite, unless such steps are skipped.
        """
        for first_step, sums in self._in_flight:
            done = by_step(devices.fetch(sums))
            nonfinite.check_steps(
                self.config, first_step, done, self.progress.skipped_steps, self.state
            )
            self.progress = self.progress.add(done)
        self.throughput.stop()
        self._in_flight = []

    def log_training(self) -> None:
        """Logs the training metrics since the last time."""
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
        self.log.log_layers(self.step, devices.fetch(self._layers["statistics"]))
        if self.config.log.histograms:
            arrays = devices.fetch((self.state.params, self._layers["gradients"]))
            self.log.log_histograms(self.step, *arrays)

    def evaluate(self) -> bool:
        """Evaluates and logs; returns whether the validation score is the best so far."""
        self.results = self.evaluator(self.state)
        for name, scalars in self.results.items():
            self.log.log_evaluation(self.step, name, scalars)
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

    def save(self) -> None:
        """Starts to save the state and the progress.

        Raises:
          NonFinite: if the state is not finite.
        """
        state = devices.fetch(self.state)
        nonfinite.check_state(self.step, state)
        self.checkpoints.save(self.step, state, self.progress)

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
        """Returns whether a signal has come and there is no other process to agree with."""
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
            f"interrupted by {signal.Signals(number).name} at step {self.step:,} of "
            f"{self.plan.num_steps:,}; rerun the same command to resume",
            code=128 + number,
        )

    def finish_saves(self) -> None:
        """Waits for the last save, that of the current step, and reports all failures.

        Raises:
          StoppedError: if that save failed or, where `checkpoint.on_error` is stop, any save did.
        """
        is_missing = self.step not in self.checkpoints.steps()
        self._report_failed_saves(stop=is_missing or self.config.checkpoint.on_error == "stop")

    def _report_failed_saves(self, *, stop: bool) -> None:
        while failure := self.checkpoints.failure():
            if stop:
                raise StoppedError(
                    f"error: {failure}\nTraining stopped. Fix the problem and rerun the same "
                    "command to resume from the last intact checkpoint.",
                    at_once=self.checkpoints.stalled,
                )
            self.log.print(f"warning: {failure}")


def _stop_if_saving(checkpoints: Checkpoints, error: NonFinite) -> None:
    """Stops instead of rolling back while a save has stalled: it could still finish at any time.

    Raises:
      StoppedError: if the last save takes longer than it may.
    """
    checkpoints.wait()
    if checkpoints.stalled:
        raise StoppedError(
            f"error: {error}\nTraining stopped, because its last checkpoint is still being "
            "written. Rerun the same command to resume from the last intact one.",
            at_once=True,
        ) from error


def _print_start(run: Run, start: Restored, log: RunLogger) -> None:
    """Prints the devices, data, model, length and CPU settings, and where the run resumes."""
    config, plan = run.config, run.plan
    hardware = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    sizes = " + ".join(f"{split.size:,} {name}" for name, split in run.splits.items())
    parameters = parameter_overview.count_parameters(start.state.params)
    log.print(
        f"{hardware}, {config.train.precision}; {config.dataset.name}: {sizes} images; "
        f"{config.model.name}: {parameters:,} parameters; {plan.num_steps:,} steps of "
        f"{config.train.batch_size} images ({plan.num_steps / plan.steps_per_epoch:.1f} epochs)"
    )
    settings = environment.in_effect()
    if backend.is_cpu() and (compiler := native.compiler()):
        settings.append(f"convolutions by {compiler}")
    if settings:
        log.print(f"CPU settings: {' '.join(settings)} (JAXCIFAR_CPU_SETTINGS=0: off)")
    if start.step:
        log.print(f"resuming from step {start.step:,} in {run.workdir}")
