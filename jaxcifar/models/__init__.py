"""The networks, by name.

A model is a linen module called as `model(images, train=...)`, with float images [B, H, W, C], and
returns float32 logits [B, classes].
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from jaxcifar import errors


@dataclasses.dataclass(frozen=True)
class Entry:
    """A name's module, the fields that the name stands for, and where they are published."""

    module: Callable[..., nn.Module]
    fields: Mapping[str, Any]
    source: str


registry: dict[str, Entry] = {}


def register(variants: Mapping[str, Mapping[str, Any]], *, source: str) -> Callable:
    """Class decorator that registers a module under each name of `variants`, with its fields."""

    def decorate(module: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        for name, fields in variants.items():
            if name in registry:
                raise ValueError(f"two models are named {name!r}")
            registry[name] = Entry(module, fields, source)
        return module

    return decorate


def fields(name: str) -> set[str]:
    """Returns the names of the fields, `name` among them, that the model called `name` has.

    Raises:
      InputError: with the near names, if there is no such model.
    """
    if name not in registry:
        raise errors.unknown("model.name", name, registry)
    return {field.name for field in dataclasses.fields(registry[name].module)}


def create(name: str, **changes: Any) -> nn.Module:
    """Returns the model called `name`, with `changes` of the fields that it stands for.

    Raises:
      InputError: if there is no such model, or its fields do not fit together.
    """
    fields(name)
    return registry[name].module(**{**registry[name].fields, **changes})


def from_config(config: ConfigDict, num_classes: int, axis_name: str | None = None) -> nn.Module:
    """Returns the network that the config's `model` section describes.

    Args:
      config: see `config.default`.
      num_classes: size of the output.
      axis_name: device axis, for batch statistics over all devices.

    Raises:
      InputError: as `create`.
    """
    takes = fields(config.model.name) - {"name"}
    # These values leave a field to what the name stands for.
    unset = {"depth": 0, "growth_rate": 0, "block_layers": ()}
    return create(
        config.model.name,
        num_classes=num_classes,
        dtype=jnp.dtype(config.train.precision),
        axis_name=axis_name if config.model.sync_batch_norm else None,
        **{
            field: value
            for field, value in config.model.items()
            if field in takes and value != unset.get(field)
        },
    )


from jaxcifar.models import densenet, resnet, resnet_cifar  # noqa: E402, F401  (register theirs)
