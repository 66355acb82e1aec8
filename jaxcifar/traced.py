"""The fields in which runs may differ and still be trained by one compiled program.

Most fields decide what is built: the shapes of arrays, the operations of a step. The others are
numbers that a step can take as arguments, or concern the host alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

# Numbers that the step takes as arguments, and whether 0 leaves out what they control.
TRACED: dict[str, bool] = {
    "train.seed": False,
    "train.label_smoothing": True,
    "train.ema_decay": True,
    "optimizer.momentum": False,
    "optimizer.beta1": False,
    "optimizer.beta2": False,
    "optimizer.epsilon": False,
    "optimizer.weight_decay": True,
    "optimizer.clip_global_norm": True,
    "optimizer.muon_momentum": False,
    "optimizer.lookahead_keep": False,
    "optimizer.lookahead_power": False,
    "augment.magnitude": False,
    "augment.cutout_size": True,
    "augment.erasing_probability": True,
    "augment.mixup_alpha": True,
    "augment.cutmix_alpha": True,
    "augment.mix_probability": False,
    "augment.cutmix_share": False,
}

# Fields that only the host reads.
HOST = frozenset(
    (
        "train.early_stopping_patience",
        "train.early_stopping_min_delta",
        "train.nonfinite_limit",
        "train.rollback_factor",
        "eval.best_metric",
        "checkpoint.on_error",
        "checkpoint.timeout_seconds",
    )
)


def is_on(number: float | jax.Array) -> bool:
    """Returns whether what a number of a config controls is built: the number is not 0.

    An argument of the step is not 0, as runs that share a step agree about what is built.
    """
    return isinstance(number, jax.Array) or bool(number)


def sets_rate(field: str) -> bool:
    """Returns whether a field has no effect but on the learning rate of each step."""
    return field.startswith(("schedule.", "optimizer.learning_rate"))


def obstacles(config: ConfigDict, other: ConfigDict) -> list[str]:
    """Returns the fields whose values keep two runs from being trained by one program.

    Args:
      config, other: validated configs.
    """
    return [
        field
        for field in differing([config, other])
        if not (field in HOST or sets_rate(field) or _both_traced(field, config, other))
    ]


def _both_traced(field: str, config: ConfigDict, other: ConfigDict) -> bool:
    if field not in TRACED:
        return False
    section, name = field.split(".")
    both_on = config[section][name] and other[section][name]
    return bool(both_on) or not TRACED[field]


def differing(configs: Sequence[ConfigDict]) -> list[str]:
    """Returns the paths of the fields in which some configs differ."""
    first = configs[0]
    return [
        f"{section}.{field}"
        for section, fields in first.items()
        for field, value in fields.items()
        if any(config[section][field] != value for config in configs[1:])
    ]


def with_numbers(config: ConfigDict, numbers: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of a config in which some fields hold arguments of a step.

    Args:
      config: validated config.
      numbers: arrays without axes by path of the field, which is one of `TRACED`.
    """
    copy = ConfigDict(config.to_dict(), type_safe=False)
    for path, number in numbers.items():
        section, field = path.split(".")
        copy[section][field] = number
    return copy
