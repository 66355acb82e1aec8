"""The registry of models: a name stands for a module and values of some of its fields."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from jaxcifar import errors


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered model.

    Attributes:
      module: class of the model.
      fields: values of the module's fields that the name stands for.
      source: publication that describes the model.
      head: name of its classifier in `params`; the shapes of these arrays, and of no others, depend
        on the number of classes.
    """

    module: Callable[..., nn.Module]
    fields: Mapping[str, Any]
    source: str
    head: str


registered: dict[str, Entry] = {}

# Config values that leave a field at the value that the model's name stands for.
_UNSET = {"depth": 0, "growth_rate": 0, "block_layers": (), "widths": (), "convs_per_block": 0}


def register(variants: Mapping[str, Mapping[str, Any]], *, source: str, head: str) -> Callable:
    """Returns a class decorator that registers a module under several names.

    Args:
      variants: the fields of each name.
      source: publication that describes the models.
      head: name of their classifier, see `Entry`.

    Raises:
      ValueError: when the class is decorated, if one of the names is taken.
    """

    def decorate(module: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        for name, values in variants.items():
            if name in registered:
                raise ValueError(f"two models are named {name!r}")
            registered[name] = Entry(module, values, source, head)
        return module

    return decorate


def fields(name: str) -> set[str]:
    """Returns the names of the fields of the model called `name`, including "name" itself.

    Raises:
      InputError: if there is no such model; the message suggests similar names.
    """
    if name not in registered:
        raise errors.unknown("model.name", name, registered)
    return {field.name for field in dataclasses.fields(registered[name].module)}


def create(name: str, **changes: Any) -> nn.Module:
    """Returns the model called `name`.

    Args:
      name: name of a registered model.
      **changes: fields to set in addition to, or instead of, those that the name stands for.

    Raises:
      InputError: if there is no such model, or its fields do not fit together.
    """
    fields(name)
    return registered[name].module(**{**registered[name].fields, **changes})


def from_config(config: ConfigDict, num_classes: int, axis_name: str | None = None) -> nn.Module:
    """Returns the network that the config's `model` section describes.

    Args:
      config: the whole config, see `config.default`.
      num_classes: number of classes.
      axis_name: device axis over which batch statistics are averaged with
        `model.sync_batch_norm`, or None.

    Raises:
      InputError: if there is no such model, or its fields do not fit together.
    """
    accepted = fields(config.model.name) - {"name"}
    return create(
        config.model.name,
        num_classes=num_classes,
        dtype=jnp.dtype(config.train.precision),
        axis_name=axis_name if config.model.sync_batch_norm else None,
        **{
            field: value
            for field, value in config.model.items()
            if field in accepted and value != _UNSET.get(field)
        },
    )
