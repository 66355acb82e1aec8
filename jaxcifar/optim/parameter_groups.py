"""Learning rates and weight decay that differ from parameter to parameter."""

import dataclasses
import re
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxcifar.config import Durations
from jaxcifar.errors import InputError


@dataclasses.dataclass(frozen=True)
class Group:
    """How a group of parameters is trained.

    Attributes:
      rate_factor: factor of the learning rate.
      weight_decay: weight decay, in place of `optimizer.weight_decay`.
      num_steps: number of steps after which the parameters stay as they are; 0: never.
    """

    rate_factor: float
    weight_decay: float | jax.Array
    num_steps: int = 0

    def rate(self, learning_rate: jax.Array, step: jax.Array) -> jax.Array:
        """Returns the group's learning rate at a step."""
        rate = learning_rate if self.rate_factor == 1 else self.rate_factor * learning_rate
        return rate * (step < self.num_steps) if self.num_steps else rate


def group_tree(config: ConfigDict, durations: Durations, params: Any) -> Any:
    """Returns the group of each parameter, as a tree of the structure of `params`.

    A parameter belongs to the first row of `optimizer.groups` whose pattern is found in its path,
    such as "stage1_block1/norm1/bias".

    Args:
      config: the `optimizer` section.
      durations: lengths of the run.
      params: the parameters, or some of them.
    """
    rows = [
        (re.compile(pattern), Group(factor, decay, round(epochs * durations.steps_per_epoch)))
        for pattern, factor, decay, epochs in config.groups
    ]

    def group_of(path: tuple[Any, ...], _: Any) -> Group:
        name = path_name(path)
        for pattern, group in rows:
            if pattern.search(name):
                return group
        decays = config.weight_decay_mask == "all" or path[-1].key == "kernel"
        return Group(1.0, config.weight_decay if decays else 0.0)

    return jax.tree_util.tree_map_with_path(group_of, params)


def check_groups(config: ConfigDict, params: Any) -> None:
    """Checks that each row of `optimizer.groups` is the first to match some parameter.

    Raises:
      InputError: naming the row that has no effect.
    """
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern, *_ in config.groups:
        others = [name for name in names if not re.search(pattern, name)]
        if len(others) == len(names):
            listed = ", ".join(names[:5])
            raise InputError(
                f"optimizer.groups: the pattern {pattern!r} matches no parameter that an earlier "
                f"row has left; parameters are called {listed}, ..."
            )
        names = others


def path_name(path: tuple[Any, ...]) -> str:
    """Returns the name of a parameter at a path of keys, such as "head/kernel"."""
    return "/".join(str(entry.key) for entry in path)
