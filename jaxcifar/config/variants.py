"""Variants of a recipe, named by the argument after its file: RECIPE.py:smoke or RECIPE.py:0.1."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from jaxcifar.config.fields import DURATIONS, FIELDS
from jaxcifar.errors import InputError

_SMOKE = "smoke"
_SMOKE_STEPS = 20

# How often a run is evaluated, logged and saved does not depend on its length.
_NOT_SCALED = {"eval.every", "checkpoint.every", "log.every", "log.layer_stats_every"}


def with_variant(config: ConfigDict, argument: str) -> ConfigDict:
    """Returns a recipe in the variant that its argument names.

    Args:
      config: the recipe, which is modified.
      argument: "" for the recipe itself; "smoke" for 20 steps of 16 random images with every
        feature of the recipe, which take minutes on a CPU; or a factor above 0, such as "0.1", by
        which the length of the run, all durations of its schedule and the interval between kept
        checkpoints are multiplied.

    Raises:
      InputError: if it is something else.
    """
    if argument == _SMOKE:
        return _smoke(config)
    if (factor := _factor(argument)) is not None:
        return _scaled(config, factor)
    if argument:
        raise _unknown(argument)
    return config


def split_argument(argument: str, *choices: Sequence[str]) -> tuple[list[str], str]:
    """Splits a recipe's argument, words with commas between them, each of which may be left out.

    Args:
      argument: such as "densenet201,cifar100,0.1".
      choices: groups of words that the recipe knows; the first of each group is its default.

    Returns:
      One word from each group of choices, and the argument for `with_variant`.

    Raises:
      InputError: if a word is unknown, or two exclude each other.
    """
    words = argument.split(",") if argument else []
    chosen = []
    for group in choices:
        found = [word for word in words if word in group]
        chosen.append(found[0] if found else group[0])
        if found:
            words.remove(found[0])
    for word in words:
        if len(words) > 1 or (word != _SMOKE and _factor(word) is None):
            raise _unknown(argument, *choices)
    return chosen, "".join(words)


def length_factor(argument: str) -> float:
    """Returns the factor by which a recipe's argument scales its length; 1.0 if it has none."""
    factors = map(_factor, argument.split(","))
    return next((factor for factor in factors if factor is not None), 1.0)


def _factor(word: str) -> float | None:
    try:
        factor = float(word)
    except ValueError:
        return None
    return factor if 0 < factor < float("inf") else None


def _unknown(argument: str, *choices: Sequence[str]) -> InputError:
    groups = [", ".join(group) for group in choices]
    groups.append("smoke or a number above 0 that scales the recipe's length, such as 0.1")
    combine = "at most one from each of these groups, joined by commas: " if choices else ""
    return InputError(f"recipe argument {argument!r}: must be {combine}{'; '.join(groups)}")


def _scaled(config: ConfigDict, factor: float) -> ConfigDict:
    """Multiplies the length of the run and all durations that depend on it."""

    def in_steps(steps: int) -> int:
        return max(1, round(steps * factor))

    def in_epochs(epochs: float) -> float:
        return float(f"{epochs * factor:.12g}")  # 12 * 0.1 is to be 1.2, not 1.2000000000000002

    config.optimizer.groups = tuple(
        (*row, in_epochs(epochs)) for *row, epochs in config.optimizer.groups
    )
    for path in DURATIONS:
        section, name = path.split(".")
        for field, scale in ((f"{name}_steps", in_steps), (f"{name}_epochs", in_epochs)):
            value = config[section][field]
            if value and path not in _NOT_SCALED:
                many = isinstance(value, tuple)
                config[section][field] = tuple(map(scale, value)) if many else scale(value)
    return config


def _smoke(config: ConfigDict) -> ConfigDict:
    """Shortens a recipe to 20 steps, on random images and with few layers in a DenseNet."""
    schedule = config.schedule
    unit = "steps" if config.train.num_steps else "epochs"
    factor = _SMOKE_STEPS / config.train[f"num_{unit}"]
    for name in ("warmup", "step_every", "cycle", "restart"):
        if length := schedule[f"{name}_{unit}"]:
            schedule[f"{name}_{unit}"] *= 0
            schedule[f"{name}_steps"] = max(1, round(length * factor))
    if milestones := schedule[f"milestones_{unit}"]:
        schedule[f"milestones_{unit}"] = ()
        schedule.milestones_steps = tuple(round(milestone * factor) for milestone in milestones)

    config.optimizer.groups = tuple((*row, 0.0) for *row, _ in config.optimizer.groups)
    if config.dataset.validation_size:
        config.dataset.validation_size = 100
    conditions = {path: field.only_if for path, field in FIELDS.items() if field.only_if}
    used = [path for path, condition in conditions.items() if condition.holds(config)]
    config.dataset.name = "fake"
    for path in used:
        if not conditions[path].holds(config):  # an option of the recipe's own data
            section, name = path.split(".")
            config[section][name] = FIELDS[path].default
    if config.model.name.startswith("densenet_bc"):
        config.model.depth = 16
    elif config.model.name.startswith("densenet"):
        config.model.block_layers = (2, 2, 2, 2)
    config.dataset.mean = config.dataset.std = ()  # those of the recipe's own data
    config.train.num_steps, config.train.num_epochs = _SMOKE_STEPS, 0.0
    config.train.batch_size = 16
    config.checkpoint.keep_every_epochs = 0.0
    config.log.every_steps, config.log.every_epochs = 5, 0.0
    return config
