"""Searches over fields of a recipe with Optuna: the study, and the trials of this machine.

Akiba et al. 2019, "Optuna: A Next-generation Hyperparameter Optimization Framework".
"""

import contextlib
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from jaxcifar.errors import IN_USE, InputError, StoppedError
from jaxcifar.launch import supervised
from jaxcifar.launch.search_space import Space, draw
from jaxcifar.launch.supervised import Evaluation
from jaxcifar.launch.trials import Fields, changed
from jaxcifar.report.search import REPORT_FILE
from jaxcifar.resilience import manifest
from jaxcifar.resilience.files import write_json
from jaxcifar.resilience.lock import WriterLock

if TYPE_CHECKING:  # an optional dependency
    import optuna

_STARTUP_TRIALS = 5  # before the median pruner acts
_MIN_FOR_IMPORTANCE = 4  # finished trials
_MOST_FAILURES = 3  # in a row, before the search gives up
_STALE_SECONDS = 300.0  # after which a trial of another machine may have been left


@contextlib.contextmanager
def open_study(space: Space, storage: str, name: str) -> "Iterator[optuna.Study]":
    """Opens a study, which is created if there is none of this name, and closes it at the end.

    Args:
      space: what is searched.
      storage: URL of the database, e.g. sqlite:///runs/search/study.db.
      name: name of the study in the database.

    Raises:
      InputError: if Optuna is not installed, the database cannot be reached, or the study was begun
        with another space.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            "optuna is not installed; install it with pip install 'jaxcifar[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    database = None
    try:
        try:
            database = optuna.storages.RDBStorage(storage)
            study = optuna.create_study(
                study_name=name,
                storage=database,
                direction="maximize",
                load_if_exists=True,
                pruner=_pruner(space),
            )
            saved = study.user_attrs.get("space")
            wanted = json.loads(json.dumps(space.fields))
            if saved is None:
                study.set_user_attr("space", wanted)
        except Exception as error:  # of SQLAlchemy or of the driver of the database
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"--storage={storage}: cannot be used: {reason}") from error
        if saved not in (None, wanted):
            differing = [f for f in {**saved, **wanted} if saved.get(f) != wanted.get(f)]
            raise InputError(
                f"--storage={storage}: the study {name!r} has another space: "
                f"{', '.join(differing)} differ; choose another --study, or --workdir"
            )
        yield study
    finally:
        if database:
            database.remove_session()
            database.engine.dispose()


def ask(study: "optuna.Study", space: Space) -> "optuna.Trial":
    """Returns the next trial; its values depend on the seed, its number and the earlier trials.

    A sampler with the seed alone would repeat its draws when a search is resumed, and in each of
    several processes.
    """
    number = len(study.get_trials(deepcopy=False))
    study.sampler = _sampler(space, number)
    trial = study.ask()
    if trial.number != number:  # another process was faster
        study.sampler = _sampler(space, trial.number)
    return trial


def _sampler(space: Space, number: int) -> "optuna.samplers.BaseSampler":
    from optuna import samplers

    seed = int(np.random.SeedSequence([space.seed, number]).generate_state(1)[0])
    if space.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    if space.sampler == "cmaes":
        return samplers.CmaEsSampler(seed=seed)
    return samplers.TPESampler(seed=seed)


def _pruner(space: Space) -> "optuna.pruners.BasePruner":
    from optuna import pruners

    if space.pruner == "none":
        return pruners.NopPruner()
    if space.pruner == "hyperband":
        return pruners.HyperbandPruner()
    return pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS)


class Search:
    """The trials of a study on this machine."""

    def __init__(
        self,
        study: "optuna.Study",
        space: Space,
        recipe: str,
        config: ConfigDict,
        parent: Path,
        given: Mapping[str, Any],
        interrupted: Callable[[], int],
    ):
        """Prepares the search.

        Args:
          study: the study.
          space: what is searched.
          recipe: file of the recipe, with its argument if any.
          config: config that it returns, with the given fields set.
          parent: directory of the runs.
          given: fields that are set for all trials.
          interrupted: returns the number of a signal that ends the search, or 0.
        """
        self._study, self._space, self._recipe = study, space, recipe
        self._config, self._parent, self._given = config, parent, given
        self._interrupted = interrupted
        self._metric = config.eval.best_metric

    def run(self, count: int) -> None:
        """Trains until the study has a number of trials that have ended, in any process.

        Raises:
          StoppedError: if a signal ends the search.
          InputError: if several trials in a row fail.
        """
        from optuna.trial import TrialState

        failures = 0
        while True:
            self._take_over()
            trials = self._study.get_trials(deepcopy=False)
            ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
            active = [t for t in trials if t.state == TrialState.RUNNING]
            if len(ended) + len(active) >= count:
                break
            failures = 0 if self._one(count) else failures + 1
            if failures == _MOST_FAILURES:
                raise InputError(f"{failures} trials in a row have failed, for the reasons above")
        self.write_report()

    def _one(self, count: int) -> bool:
        """Draws, trains and judges one trial; returns whether it ended as it should."""
        from optuna.trial import TrialState

        trial = ask(self._study, self._space)
        fields = draw(trial, self._space)
        workdir = Path(trial.user_attrs.get("workdir") or self._parent / f"trial_{trial.number:04}")
        for name, value in (
            ("workdir", str(workdir)),
            ("host", platform.node()),
            ("pid", os.getpid()),
        ):
            trial.set_user_attr(name, value)
        shown = ", ".join(f"{field.split('.')[-1]}={_short(v)}" for field, v in fields.items())
        print(f"trial {trial.number} of {count}: {shown}", flush=True)
        try:
            changed(self._config, fields, f"{self._recipe}, trial {trial.number}")
        except InputError as error:  # a combination that the recipe does not allow
            print(f"  left out: {error}", flush=True)
            self._study.tell(trial, state=TrialState.FAIL)
            return False
        last, code, is_pruned = self._train(trial, workdir, fields)
        if number := self._interrupted():
            trial.set_user_attr("interrupted", True)
            self._study.tell(trial, state=TrialState.FAIL)
            raise StoppedError(
                "the search was stopped; rerun the same command to resume", code=128 + number
            )
        if is_pruned and last:
            self._study.tell(trial, state=TrialState.PRUNED)
            supervised.record_pruned(workdir, last, f"{self._space.pruner} pruner of the search")
            print(f"  pruned at epoch {last.epoch:.1f} with {last.score:.4f}", flush=True)
        elif code == 0 and last:
            self._study.tell(trial, last.score)
            print(f"  {self._metric} {abs(last.score):.4f}", flush=True)
        elif code == IN_USE:
            self._study.tell(trial, state=TrialState.FAIL)
            print("  another process trains it", flush=True)
        else:
            self._study.tell(trial, state=TrialState.FAIL)
            print(f"  failed with exit code {code}; see {workdir}.log", flush=True)
            return False
        self.write_report()
        return True

    def _train(
        self, trial: "optuna.Trial", workdir: Path, fields: Fields
    ) -> tuple[Evaluation | None, int, bool]:
        """The last evaluation of a trial's training, its exit code, and whether it was pruned."""
        seen: list[Evaluation] = []
        pruned: list[bool] = []

        def decide(evaluation: Evaluation) -> bool:
            seen.append(evaluation)
            trial.report(evaluation.score, len(seen))
            if trial.should_prune() and "end" not in manifest.read(workdir):
                pruned.append(True)
            return bool(pruned)

        settings = [
            f"--config.{field}={value}" for field, value in {**self._given, **fields}.items()
        ]
        command = [sys.executable, "-m", "jaxcifar.main", f"--config={self._recipe}"]
        workdir.parent.mkdir(parents=True, exist_ok=True)
        with workdir.with_name(workdir.name + ".log").open("ab") as log:
            code = supervised.train(
                [*command, f"--workdir={workdir}", *settings],
                workdir,
                self._metric,
                decide,
                interrupted=lambda: bool(self._interrupted()),
                output=log,
            )
        # A run that ended while it was being stopped has finished.
        return (seen[-1] if seen else None), code, bool(pruned) and code == supervised.STOPPED

    def _take_over(self) -> None:
        """Queues again what an interrupted or dead search has left, to resume in its workdir."""
        from optuna.trial import TrialState

        trials = self._study.get_trials(deepcopy=False)
        taken = {trial.user_attrs.get("resumes") for trial in trials}
        for trial in trials:
            attributes = trial.user_attrs
            if trial.number in taken or "workdir" not in attributes:
                continue
            was_stopped = trial.state == TrialState.FAIL and attributes.get("interrupted")
            if not was_stopped and not (trial.state == TrialState.RUNNING and _is_dead(trial)):
                continue
            if trial.state == TrialState.RUNNING:
                self._study.tell(trial.number, state=TrialState.FAIL)
            kept = {"workdir": attributes["workdir"], "resumes": trial.number}
            self._study.enqueue_trial(trial.params, user_attrs=kept)

    def write_report(self) -> None:
        """Writes what the report shows of the search: its history and the importance of fields."""
        from optuna.trial import TrialState

        trials = self._study.get_trials(deepcopy=False)
        done = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        complete = [t for t in done if t.state == TrialState.COMPLETE]
        importance: dict[str, float] = {}
        if len(complete) >= _MIN_FOR_IMPORTANCE:
            from optuna.importance import get_param_importances

            with warnings.catch_warnings(), contextlib.suppress(ValueError, RuntimeError):
                warnings.simplefilter("ignore")  # the scores may all be the same
                importance = get_param_importances(self._study)
        write_json(
            self._parent / REPORT_FILE,
            {
                "metric": self._metric,
                "trials": [
                    {
                        "number": t.number,
                        "state": t.state.name.lower(),
                        "score": t.value if t.state == TrialState.COMPLETE else _last(t),
                        "fields": t.params,
                    }
                    for t in done
                ],
                "importance": importance,
            },
        )

    def best(self) -> tuple[int, float, Fields] | None:
        """Returns number, score and fields of the best trial; None if none has finished."""
        with contextlib.suppress(ValueError):
            trial = self._study.best_trial
            return trial.number, float(trial.value or 0.0), trial.params
        return None


def _last(trial: "optuna.trial.FrozenTrial") -> float | None:
    values = trial.intermediate_values
    return values[max(values)] if values else None


def _is_dead(trial: "optuna.trial.FrozenTrial") -> bool:
    """Whether the process that had a trial has gone, as far as can be told from here."""
    attributes = trial.user_attrs
    if attributes.get("host") == platform.node():
        try:
            os.kill(attributes["pid"], 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False
    started = trial.datetime_start
    if started is None or time.time() - started.timestamp() < _STALE_SECONDS:
        return False
    try:
        with WriterLock(Path(attributes["workdir"])):
            return True
    except InputError:
        return False


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
