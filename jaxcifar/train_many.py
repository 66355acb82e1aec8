"""Trains runs that differ only in numbers with one compiled program, see `feed.for_each_run`.

Each run has its own workdir, with the files that it would leave if trained alone, and is logged,
evaluated and saved by the same functions. What ends one run, such as NaN, early stopping or a full
disk, leaves the others as they are.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxcifar import devices, environment, resume
from jaxcifar.attempt import Attempt, Run
from jaxcifar.config import durations
from jaxcifar.config.validation import validate
from jaxcifar.data import datasets
from jaxcifar.data.split import Split
from jaxcifar.errors import IN_USE, InputError, InUseError, StoppedError, describe
from jaxcifar.evaluate import Evaluator, Results
from jaxcifar.feed import Stacked, by_step, train_calls
from jaxcifar.metrics import Sums
from jaxcifar.program import create_program
from jaxcifar.reporting.console import Console
from jaxcifar.resilience import nonfinite
from jaxcifar.resilience.lock import WriterLock
from jaxcifar.resilience.manifest import check_config
from jaxcifar.resilience.nonfinite import NonFinite
from jaxcifar.resilience.peers import Peers
from jaxcifar.resilience.signals import Signals
from jaxcifar.run import begin, end, load_splits, open_run, roll_back, stop_if_saving
from jaxcifar.stacking import number_at_once, stacked
from jaxcifar.traced import differing, obstacles, sets_rate
from jaxcifar.train import do_due


class Outcome(NamedTuple):
    """How a run has ended.

    Attributes:
      workdir: directory of the run.
      code: exit code that its own process would have; 0 if it has finished.
      message: the error, or "".
    """

    workdir: Path
    code: int
    message: str = ""


def train_many(
    runs: Sequence[tuple[ConfigDict, Path]],
    at_once: int = 0,
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Trains runs by one program, each from the last checkpoint in its workdir if there is one.

    Runs that are at different steps, as after a kill between their saves, are trained by a program
    per step. Each run writes what it would print to `<workdir>.log`.

    Args:
      runs: config and workdir of each.
      at_once: number of runs that are trained at once; 0 for as many as the memory holds.
      say: called with each line about all of them.

    Returns:
      The outcome of each that has begun, in their order.

    Raises:
      InputError: if a config is invalid or does not share a program with the first, or the data is
        missing, or the memory does not hold so many; nothing has been written then.
    """
    first = runs[0][0]
    for config, workdir in runs:
        validate(config)
        if fields := obstacles(first, config):
            raise InputError(
                f"{workdir}: must have the {fields[0]} of {runs[0][1]} to share its program"
            )
        if config.train.distributed:
            raise InputError("train.distributed = True: must be False for runs of one program")
    if first.train.deterministic:
        environment.make_deterministic()
    if not datasets.uses_device_pipeline(first.dataset):
        raise InputError("dataset.pipeline = 'tf': must be 'device' for runs of one program")
    splits = load_splits(first)
    train_split = splits["train"]
    assert isinstance(train_split, Split)
    info = datasets.info(first.dataset)
    configs = [config for config, _ in runs]
    plan = durations(first, train_split.size)
    at_once, memory = number_at_once(at_once, configs, train_split, info, plan)
    say(memory)
    with Signals() as signals, Peers(False, first.train.peer_timeout_seconds) as peers:
        shared = _Shared(splits, signals, peers)
        outcomes: list[Outcome] = []
        for start in range(0, len(runs), at_once):
            members = [
                _Member(config, workdir, shared)
                for config, workdir in runs[start : start + at_once]
            ]
            outcomes += _train_all(members, say)
            if signals.received:
                break
    return outcomes


def _train_all(members: list["_Member"], say: Callable[[str], None]) -> list[Outcome]:
    """Trains runs until each has ended."""
    try:
        while left := [member for member in members if not member.outcome]:
            for member in left:
                member.begin()
            begun = sorted((m for m in left if m.is_training), key=lambda m: m.attempt.step)
            for _, group in groupby(begun, key=lambda m: m.attempt.step):
                _train_group(list(group), say)
    finally:
        for member in members:
            member.close()
    return [member.outcome for member in members if member.outcome]


@dataclasses.dataclass
class _Shared:
    """What all runs use: the data, the signals of their process, and the compiled evaluation."""

    splits: dict[str, Any]
    signals: Signals
    peers: Peers
    evaluator: Evaluator | None = None


class _Member:
    """One of the runs.

    Attributes:
      run: what all its attempts share; there is none before the first.
      attempt: the last attempt.
      is_training: whether that has not ended yet.
      outcome: how the run has ended; None until then.
      factors: learning-rate factors of its rollbacks.
    """

    run: Run
    attempt: Attempt

    def __init__(self, config: ConfigDict, workdir: Path, shared: _Shared):
        self.config, self.workdir, self._shared = config, workdir, shared
        self.is_training, self._is_open = False, False
        self.outcome: Outcome | None = None
        self.factors: list[tuple[int, float]] = []
        self._held, self._files = ExitStack(), ExitStack()

    def begin(self) -> None:
        """Begins an attempt from the last checkpoint; takes the lock of the run the first time."""
        shared = self._shared
        with self.alone():
            if not self._is_open:
                self._open()
            images = getattr(self.run.splits["train"], "images", None)
            program = create_program(
                self.config, self.run.info, self.run.plan, self.factors, images
            )
            shared.evaluator = shared.evaluator or Evaluator(self.config, program, self.run.splits)
            log = self._files.enter_context(self._log_path().open("a"))
            console = Console(file=log, soft_wrap=True, highlight=False)
            attempt = begin(self.run, program, shared.evaluator, console)
            self.attempt = self._files.enter_context(attempt)
            self.is_training = True

    def _open(self) -> None:
        config, workdir, shared = self.config, self.workdir, self._shared
        check_config(workdir, config)
        resume.check_workdir(workdir, config)
        lock = self._held.enter_context(WriterLock(workdir))
        self.run = open_run(config, workdir, shared.splits, lock, shared.signals, shared.peers)
        self.factors = nonfinite.rate_factors(workdir)
        self._is_open = True

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within it, an error ends this run, or its attempt, and no other."""
        try:
            yield
        except NonFinite as error:
            self._roll_back(error)
        except InUseError as error:
            self._end(IN_USE, describe(error))
        except (InputError, OSError) as error:
            self._end(1, f"error: {describe(error)}")
        except StoppedError as error:
            self._end(error.code, str(error))

    def _roll_back(self, error: NonFinite) -> None:
        """Ends the attempt; the next one has a lower learning rate, if the config allows it."""
        try:
            if self.is_training:
                stop_if_saving(self.attempt.checkpoints, error)
            self._end_attempt()
            self.factors = roll_back(self.run, self.factors, error)
        except NonFinite as last:
            self._end(1, f"error: {last}")
        except StoppedError as stopped:
            self._end(stopped.code, str(stopped))

    def finish(self) -> None:
        """Records the end of the run, whose state is in the attempt."""
        with self.alone():
            end(self.run, self.attempt, self.attempt.last_results())
            self._end(0, "")

    def _end(self, code: int, message: str) -> None:
        self.outcome = Outcome(self.workdir, code, message)
        self.close()
        if message and code != IN_USE and self.workdir.exists():
            with self._log_path().open("a") as log:
                log.write(f"{message}\n")

    def _log_path(self) -> Path:
        return self.workdir.with_name(self.workdir.name + ".log")

    def _end_attempt(self) -> None:
        self.is_training = False
        self._files.close()

    def close(self) -> None:
        """Closes the files and gives the lock back."""
        self._end_attempt()
        self._held.close()


def _train_group(members: list[_Member], say: Callable[[str], None]) -> None:
    """Trains runs that are at the same step, until each has ended or must be begun again."""
    for member in members:
        with member.alone():
            attempt = member.attempt
            if attempt.is_out_of_patience() or attempt.step == attempt.plan.num_steps:
                member.finish()
            else:
                attempt.stop_if_signalled(attempt.agreed_signal())
    active = [member for member in members if member.is_training]
    while active:
        runs = "1 run" if len(active) == 1 else f"{len(active)} runs"
        say(f"{runs} in one program, from step {active[0].attempt.step:,}")
        active = _train_stack(active, say)


def _train_stack(members: list[_Member], say: Callable[[str], None]) -> list[_Member]:
    """Trains runs until half of them have ended, and returns the others.

    Those that have ended remain in the program, and their results are not used.
    """
    attempts = [member.attempt for member in members]
    lead, step = attempts[0], attempts[0].step
    calls = train_calls(
        lead.config,
        lead.program,
        lead.splits["train"],
        first_step=step,
        num_steps=lead.plan.num_steps,
        next_due=lead.plan.next_due,
        stacked=_stacked(members),
    )
    state = devices.stack([attempt.state for attempt in attempts])
    for attempt in attempts:
        attempt.state = None
    active, in_flight = members, []
    for call in calls:
        state, sums, layers = call.run(state)
        in_flight.append((step, sums))
        step += call.num_steps
        for member in active:
            with member.alone():
                member.attempt.started(call.num_steps)
        active = [member for member in active if member.is_training]
        if not any(member.attempt.has_work() for member in active):
            continue
        done = [(first, devices.fetch(sums)) for first, sums in in_flight]
        in_flight = []
        for member in active:
            member.attempt.throughput.stop()
        signals = {
            member: _do_due(member, done, index, *devices.row((state, layers), index))
            for index, member in enumerate(members)
            if member in active
        }
        if lead.plan.due(step).evaluate:
            results = [a.results for m, a in zip(members, attempts, strict=True) if m in active]
            say(f"step {step:,}/{lead.plan.num_steps:,}  {_summary(results)}")
        active = [member for member in active if member.is_training]
        if all(signals[member] for member in active):  # otherwise some have not saved yet
            for member in active:
                with member.alone():
                    member.attempt.stop_if_signalled(signals[member])
            active = [member for member in active if member.is_training]
        if 2 * len(active) <= len(members):
            break
        for member in active:
            member.attempt.throughput.start()
    for index, member in enumerate(members):
        if member in active:
            member.attempt.state = devices.row(state, index)
    return active


def _do_due(
    member: _Member, done: list[tuple[int, Sums]], index: int, state: Any, layers: Any
) -> int:
    """Does what is due for a run after a call; returns a signal that ends it, or 0.

    Args:
      member: the run.
      done: the step that each call began with, and its sums for all runs, on the host.
      index: the run's row in them.
      state, layers: the state of the run and the values of its layers, see `Attempt`.
    """
    attempt, signalled = member.attempt, 0
    attempt.state, attempt.layers = state, layers
    with member.alone():
        own = ({name: x[..., index] for name, x in sums.items()} for _, sums in done)
        attempt.count([(first, by_step(sums)) for (first, _), sums in zip(done, own, strict=True)])
        stops_early, signalled = do_due(attempt)
        if stops_early or attempt.step == attempt.plan.num_steps:
            member.finish()
    attempt.state = None
    return signalled


def _summary(results: list[Results]) -> str:
    """The range of the accuracies of several runs, on validation images if there are any."""
    split = "validation" if all("validation" in found for found in results) else "test"
    accuracies = [found[split]["accuracy"] for found in results if split in found]
    if not accuracies:
        return ""
    return f"{split} accuracy {min(accuracies):.2%} to {max(accuracies):.2%} of {len(results)} runs"


def _stacked(members: list[_Member]) -> Stacked:
    configs, run = [member.config for member in members], members[0].run
    rates = None
    if any(map(sets_rate, differing(configs))) or any(member.factors for member in members):
        rates = [member.attempt.program.learning_rate for member in members]
    return stacked(configs, run.info, run.plan, rates)
