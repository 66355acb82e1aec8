"""Rules and conditions from which the table of fields is written."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

_INFINITY = float("inf")


class Rule(NamedTuple):
    """Values that a field may have.

    Attributes:
      text: completes the sentence "the value must be ...".
      allows: whether a value of the field's type follows the rule.
    """

    text: str
    allows: Callable[[Any], bool]

    def __and__(self, other: "Rule") -> "Rule":
        """Returns the rule that allows what both allow."""
        return Rule(
            f"{self.text} and {other.text}",
            lambda value: self.allows(value) and other.allows(value),
        )


def one_of(*values: str | int) -> Rule:
    """Allows the names or numbers listed."""
    return Rule(f"one of {', '.join(map(str, values))}", lambda value: value in values)


def between(low: float, high: float) -> Rule:
    """Allows numbers from `low` to `high`, both included."""
    return Rule(f"from {low} to {high}", lambda value: low <= value <= high)


def at_least(bound: float) -> Rule:
    """Allows `bound` and all finite numbers above it."""
    return Rule(f"at least {bound}", lambda value: bound <= value < _INFINITY)


def above(bound: float) -> Rule:
    """Allows finite numbers above `bound`."""
    return Rule(f"above {bound}", lambda value: bound < value < _INFINITY)


def at_most(bound: float) -> Rule:
    """Allows `bound` and all numbers below it."""
    return Rule(f"at most {bound}", lambda value: value <= bound)


def below(bound: float) -> Rule:
    """Allows numbers below `bound`."""
    return Rule(f"below {bound}", lambda value: value < bound)


def increasing(*types: type) -> Rule:
    """Allows tuples of positive numbers of these types, each larger than the one before."""

    def allows(values: tuple) -> bool:
        return all(
            isinstance(value, types) and before < value < _INFINITY
            for value, before in zip(values, (0, *values), strict=False)
        )

    return Rule("increasing numbers above 0, such as (100, 150)", allows)


def integers(low: int, high: int, example: str) -> Rule:
    """Allows tuples of integers from `low` to `high`."""
    return Rule(
        f"integers from {low} to {high}, such as {example}",
        lambda values: all(isinstance(value, int) and low <= value <= high for value in values),
    )


def _is_groups(value: Any) -> bool:
    try:
        return all(
            isinstance(number, int | float) and isinstance(name, str)
            for probability, members in value
            for name, weight in members
            for number in (probability, weight)
        )
    except (TypeError, ValueError):
        return False


def numbers(low: float, high: float, example: str) -> Rule:
    """Allows tuples of numbers from `low` to `high`."""

    def allows(values: tuple) -> bool:
        return all(
            isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
            for value in values
        )

    return Rule(f"numbers from {low} to {high}, such as {example}", allows)


def _are_parameter_groups(value: Any) -> bool:
    try:
        for pattern, rate_factor, weight_decay, epochs in value:
            re.compile(pattern)
            if not all(0 <= number < _INFINITY for number in (rate_factor, weight_decay, epochs)):
                return False
    except (TypeError, ValueError, re.error):
        return False
    return True


# The code that knows the names checks the value, and suggests similar ones.
NAME = Rule("a known name", lambda value: True)

GROUPS = Rule("of the form ((probability, ((name, weight), ...)), ...)", _is_groups)

PARAMETER_GROUPS = Rule(
    "rows of a regular expression and three numbers of at least 0, such as "
    '(("norm.*/bias", 64, 0, 0),)',
    _are_parameter_groups,
)

CHECKPOINT = Rule(
    "latest, best or the number of a step",
    lambda value: value in ("latest", "best") or value.isdecimal(),
)


class Condition(NamedTuple):
    """Configs in which a field has an effect.

    Attributes:
      text: completes the sentence "the field is used only if ...".
      holds: whether a config meets the condition.
    """

    text: str
    holds: Callable[[ConfigDict], bool]

    def __and__(self, other: "Condition") -> "Condition":
        """Returns the condition that both hold."""
        return Condition(
            f"{self.text} and {other.text}",
            lambda config: self.holds(config) and other.holds(config),
        )

    def __or__(self, other: "Condition") -> "Condition":
        """Returns the condition that at least one of the two holds."""
        return Condition(
            f"{self.text} or {other.text}",
            lambda config: self.holds(config) or other.holds(config),
        )


def get(config: ConfigDict, path: str) -> Any:
    """Returns the value of a field, given by its path such as "train.seed"."""
    section, name = path.split(".")
    return config[section][name]


def equals(path: str, *values: Any) -> Condition:
    """The field at `path` has one of these values."""
    *others, last = map(repr, values)
    wanted = f"{', '.join(others)} or {last}" if others else last
    return Condition(f"{path} = {wanted}", lambda config: get(config, path) in values)


def differs(path: str, value: Any) -> Condition:
    """The field at `path` has any other value."""
    return Condition(f"{path} is not {value!r}", lambda config: get(config, path) != value)


def starts_with(path: str, prefix: str) -> Condition:
    """The field at `path` starts with `prefix`."""
    return Condition(
        f"{path} starts with {prefix!r}", lambda config: str(get(config, path)).startswith(prefix)
    )


def is_set(path: str) -> Condition:
    """The field at `path` is not zero."""
    return Condition(f"{path} is set", lambda config: bool(get(config, path)))


def duration_is_set(path: str) -> Condition:
    """One of the two fields of the duration `path` is not zero."""
    return Condition(
        f"{path}_steps or _epochs is set",
        lambda config: bool(get(config, f"{path}_steps") or get(config, f"{path}_epochs")),
    )
