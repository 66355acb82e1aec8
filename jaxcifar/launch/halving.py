"""Successive halving: trains all runs for a short time, keeps the best, trains these for longer.

Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization". The runs that are kept resume from their checkpoints.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxcifar.errors import InputError, StoppedError
from jaxcifar.launch import supervised
from jaxcifar.launch.supervised import Evaluation
from jaxcifar.launch.trials import Trial
from jaxcifar.resilience import manifest


class Rung(NamedTuple):
    """A stage of the halving.

    Attributes:
      share: share of the whole length up to which runs are trained.
      kept: number of runs that are.
    """

    share: float
    kept: int


def rungs(count: int, factor: int) -> list[Rung]:
    """Returns the stages for a number of runs, the last of which trains to the end.

    Args:
      count: number of runs, above 0.
      factor: each stage keeps 1/factor of the runs and trains them `factor` times as long.

    Raises:
      InputError: if the factor is below 2.
    """
    if factor < 2:
        raise InputError(f"--halving={factor}: must be at least 2")
    numbers = [count]
    while numbers[-1] > 1:
        numbers.append(max(numbers[-1] // factor, 1))
    return [
        Rung(float(factor) ** (stage + 1 - len(numbers)), number)
        for stage, number in enumerate(numbers)
    ]


def train_all(
    runs: Sequence[Trial],
    factor: int,
    length: Callable[[Trial], float],
    interrupted: Callable[[], int],
) -> list[str]:
    """Trains runs by successive halving.

    Args:
      runs: the runs, judged by `eval.best_metric` on validation images.
      factor: see `rungs`.
      length: the whole length of a run in epochs.
      interrupted: returns the number of a signal that ends the sweep, or 0.

    Returns:
      The runs that failed, with their exit code, as text.

    Raises:
      StoppedError: if a signal ends the sweep.
    """
    failed: list[str] = []
    stages = rungs(len(runs), factor)
    left = list(runs)
    for number, stage in enumerate(stages):
        print(
            f"stage {number + 1} of {len(stages)}: {len(left)} runs to "
            f"{stage.share:.1%} of their length",
            flush=True,
        )
        reached: list[tuple[float, Trial, Evaluation]] = []
        for run in left:
            last, code = _train_to(run, stage.share * length(run), interrupted)
            if signal_number := interrupted():
                raise StoppedError(
                    "the sweep was stopped; rerun the same command to resume",
                    code=128 + signal_number,
                )
            if code not in (0, supervised.STOPPED) or last is None:
                failed.append(f"{run.workdir} (exit code {code})")
                continue
            print(f"  {run.workdir}: {abs(last.score):.4f} at epoch {last.epoch:.1f}", flush=True)
            reached.append((last.score, run, last))
        reached.sort(key=lambda entry: -entry[0])  # stable: the first of equals is kept
        following = stages[number + 1].kept if number + 1 < len(stages) else len(reached)
        for _, run, last in reached[following:]:
            supervised.record_pruned(run.workdir, last, f"stage {number + 1} of successive halving")
        left = [run for _, run, _ in reached[:following]]
    return failed


def _train_to(
    run: Trial, epochs: float, interrupted: Callable[[], int]
) -> tuple[Evaluation | None, int]:
    """Trains a run up to its first evaluation at or after an epoch; it may be there already."""
    metric = run.config.eval.best_metric
    reached: list[Evaluation] = []

    def decide(evaluation: Evaluation) -> bool:
        if not reached and evaluation.epoch >= epochs - 1e-6:
            reached.append(evaluation)
        return bool(reached)

    before = supervised.evaluations(run.workdir, metric)
    for evaluation in before:
        decide(evaluation)
    if reached:
        return reached[0], 0
    if "end" in manifest.read(run.workdir):
        return (before[-1] if before else None), 0
    run.workdir.parent.mkdir(parents=True, exist_ok=True)
    with run.workdir.with_name(run.workdir.name + ".log").open("ab") as log:
        code = supervised.train(
            run.command,
            run.workdir,
            metric,
            decide,
            interrupted=lambda: bool(interrupted()),
            output=log,
        )
    if not reached and code == 0:  # the run has ended before, as by early stopping
        found = supervised.evaluations(run.workdir, metric)
        return (found[-1] if found else None), code
    return (reached[0] if reached else None), code
