"""The space of a search: what a recipe's `get_study` returns, and values drawn from it."""

import runpy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxcifar.config.structure import check_field
from jaxcifar.errors import InputError, unknown
from jaxcifar.launch.trials import Fields

if TYPE_CHECKING:  # an optional dependency
    import optuna

SAMPLERS = ("tpe", "random", "cmaes")
PRUNERS = ("median", "hyperband", "none")
_RANGE_KEYS = {"low", "high", "log", "step", "only_if"}


class Space(NamedTuple):
    """What a recipe's `get_study` returns.

    Attributes:
      fields: by path, a list of choices, or a dictionary with `low` and `high`, and optionally
        `log`, `step` and `only_if`, which maps another field to the value for which this one is
        searched. Whole numbers give whole numbers. A list of choices with a condition is a
        dictionary with `choices` and `only_if`.
      sampler: one of `SAMPLERS`.
      pruner: one of `PRUNERS`.
      seed: seed of the sampler.
    """

    fields: dict[str, Any]
    sampler: str
    pruner: str
    seed: int


def read_space(path: str) -> Space:
    """Returns the space of a recipe file.

    Args:
      path: the recipe file.

    Raises:
      InputError: if it has no `get_study`, or that returns something invalid.
    """
    get_study = runpy.run_path(path).get("get_study")
    if get_study is None:
        raise InputError(f"{path} has no get_study(), which returns the space of a search")
    try:
        found = get_study()
    except Exception as error:  # a recipe may raise anything
        raise InputError(f"{path}: get_study: {type(error).__name__}: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("space"), dict):
        raise InputError(f"{path}: get_study must return a dictionary with a dictionary `space`")
    known = {"space", "sampler", "pruner", "seed"}
    if extra := found.keys() - known:
        raise InputError(f"{path}: get_study: {unknown('entry', min(extra), known)}")
    space = Space(
        found["space"],
        found.get("sampler", "tpe"),
        found.get("pruner", "median"),
        found.get("seed", 0),
    )
    for kind, value, choices in (
        ("sampler", space.sampler, SAMPLERS),
        ("pruner", space.pruner, PRUNERS),
    ):
        if value not in choices:
            raise InputError(f"{path}: get_study: {unknown(kind, str(value), choices)}")
    if not space.fields:
        raise InputError(f"{path}: get_study: the space is empty")
    for field, values in space.fields.items():
        try:
            check_field(field)
            _check_values(values, space.fields)
        except InputError as error:
            raise InputError(f"{path}: get_study: {field}: {error}") from error
    return space


def _check_values(values: Any, fields: Mapping[str, Any]) -> None:
    """Checks the values of one field, which come from a user's recipe."""
    if isinstance(values, dict):
        condition = values.get("only_if", {})
        if not (isinstance(condition, dict) and condition.keys() <= fields.keys()):
            raise InputError("only_if must map other fields of the space to a value")
        if "choices" in values:
            if values.keys() - {"choices", "only_if"}:
                raise InputError("choices have no other entry than only_if")
            return _check_values(values["choices"], fields)
        if extra := values.keys() - _RANGE_KEYS:
            raise unknown("entry", min(extra), sorted(_RANGE_KEYS))
        low: Any = values.get("low")
        high: Any = values.get("high")
        numbers = isinstance(low, int | float) and isinstance(high, int | float)
        if not numbers or not low < high:
            raise InputError("low and high must be numbers, low below high")
        if values.get("log") and low <= 0:
            raise InputError(f"low = {low}: must be above 0 on a logarithmic scale")
        return
    if not isinstance(values, list | tuple) or not values:
        raise InputError("must be a list of choices, or a dictionary with low and high")


def draw(trial: "optuna.Trial", space: Space) -> Fields:
    """Returns the values of a trial, without the fields whose condition does not hold."""
    fields: Fields = {}
    for field, values in space.fields.items():
        conditions = values.get("only_if", {}) if isinstance(values, dict) else {}
        if any(fields.get(other) != value for other, value in conditions.items()):
            continue
        fields[field] = _suggest(trial, field, values)
    return fields


def _suggest(trial: "optuna.Trial", field: str, values: Any) -> Any:
    if isinstance(values, dict) and "choices" in values:
        values = values["choices"]
    if not isinstance(values, dict):
        # Optuna's choices are scalars; others stand for their place in the list.
        if all(isinstance(value, str | int | float | bool) for value in values):
            return trial.suggest_categorical(field, list(values))
        return values[trial.suggest_categorical(field, list(range(len(values))))]
    low, high, log = values["low"], values["high"], values.get("log", False)
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(field, low, high, step=values.get("step", 1), log=log)
    return trial.suggest_float(field, low, high, step=values.get("step"), log=log)
