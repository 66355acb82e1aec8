"""The training loop, to be read from top to bottom."""

from pathlib import Path

from ml_collections import ConfigDict

from jaxcifar import environment, resume
from jaxcifar.attempt import Attempt, Run
from jaxcifar.config.validation import validate
from jaxcifar.evaluate import Results
from jaxcifar.program import Program, create_program
from jaxcifar.resilience import nonfinite, processes
from jaxcifar.resilience.lock import WriterLock
from jaxcifar.resilience.manifest import check_config
from jaxcifar.resilience.nonfinite import NonFinite
from jaxcifar.resilience.peers import Peers
from jaxcifar.resilience.signals import Signals
from jaxcifar.run import begin, end, load_splits, open_run, print_once, roll_back, stop_if_saving


def train(
    config: ConfigDict, workdir: Path, *, accept_config_change: bool = False, note: str = ""
) -> Results:
    """Trains a config's network, resuming from the last checkpoint in `workdir` if there is one.

    Leaves in the workdir: `checkpoints/`, `metrics.csv`, TensorBoard event files,
    `parameters.txt` and `manifest.json`.

    Args:
      config: see `config.default`.
      workdir: directory of this run alone; created if it is missing.
      accept_config_change: resume even if the config differs from the one the run was started with,
        or if the convolutions give other bits.
      note: line to print first.

    Returns:
      The metrics of each split except the training split, at the last step.

    Raises:
      InputError: if the config is invalid or differs from the run's, the data is missing or differs
        from the run's, or another process trains in the workdir.
      NonFinite: an `InputError`; if a step or an evaluation produces NaN or infinity, unless
        `train.on_nonfinite` and `train.nonfinite_limit` let the run continue.
      StoppedError: after SIGTERM or SIGINT, once the state is saved; or if it cannot be saved.
    """
    validate(config)
    check_config(workdir, config, accept=accept_config_change)
    resume.check_workdir(workdir, config)
    if config.train.deterministic:
        environment.make_deterministic()
    with (
        Peers(config.train.distributed, config.train.peer_timeout_seconds) as peers,
        WriterLock(workdir, active=peers.process == 0) as lock,
        Signals() as signals,
    ):
        processes.barrier()
        print_once(note)
        return _train(config, workdir, lock, signals, peers, accept_config_change)


def _train(
    config: ConfigDict,
    workdir: Path,
    lock: WriterLock,
    signals: Signals,
    peers: Peers,
    accept_change: bool,
) -> Results:
    """Loads the data and makes attempts until one reaches the end."""
    splits = load_splits(config)
    run = open_run(config, workdir, splits, lock, signals, peers, accept_change)
    factors = nonfinite.rate_factors(workdir)
    while True:
        images = getattr(splits["train"], "images", None)
        program = create_program(config, run.info, run.plan, factors, images)
        try:
            return _attempt(run, program)
        except NonFinite as error:
            factors = roll_back(run, factors, error)


def _attempt(run: Run, program: Program) -> Results:
    """Trains from the last checkpoint to the end, and records the end once all of it is on disk."""
    with begin(run, program) as attempt:
        try:
            results = _loop(attempt)
        except NonFinite as error:
            stop_if_saving(attempt.checkpoints, error)
            raise
        end(run, attempt, results)
    return results


def _loop(attempt: Attempt) -> Results:
    """Trains to the end, or until early stopping or a signal; returns the last results."""
    if attempt.is_out_of_patience():
        attempt.log.print(f"stopped early before step {attempt.step:,}")
        return attempt.last_results()
    attempt.stop_if_signalled(attempt.agreed_signal())

    for call in attempt.calls():
        attempt.run_call(call)
        if not attempt.has_work():
            continue
        attempt.collect()
        stops_early, signalled = do_due(attempt)
        if stops_early:
            break
        attempt.stop_if_signalled(signalled)
        attempt.throughput.start()

    return attempt.last_results()


def do_due(attempt: Attempt) -> tuple[bool, int]:
    """Logs, evaluates and saves as is due after a call.

    Returns:
      Whether the run stops early, and the number of a signal that ends it or 0; its state is saved
      in both cases.
    """
    due = attempt.plan.due(attempt.step)
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
    return stops_early, signalled
