"""The networks, by name.

A model is a linen module called as `model(images, train=...)`, with float images [B, H, W, C], and
returns float32 logits [B, classes].
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from jaxcifar import errors

_REGISTRY: dict[str, tuple[Callable[..., nn.Module], Mapping[str, Any]]] = {}


def register(variants: Mapping[str, Mapping[str, Any]]) -> Callable:
    """Class decorator that registers a module under each name of `variants`, with its fields."""

    def decorate(module: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        for name, fields in variants.items():
            if name in _REGISTRY:
                raise ValueError(f"two models are named {name!r}")
            _REGISTRY[name] = (module, fields)
        return module

    return decorate


def fields(name: str) -> set[str]:
    """Returns the names of the fields, `name` among them, that the model called `name` has.

    Raises:
      InputError: with the near names, if there is no such model.
    """
    if name not in _REGISTRY:
        raise errors.unknown("model.name", name, _REGISTRY)
    return {field.name for field in dataclasses.fields(_REGISTRY[name][0])}


def create(name: str, **changes: Any) -> nn.Module:
    """Returns the model called `name`, with `changes` of the fields that it stands for.

    Raises:
      InputError: if there is no such model, or its fields do not fit together.
    """
    fields(name)
    module, variant = _REGISTRY[name]
    return module(**{**variant, **changes})


from jaxcifar.models import densenet, resnet, resnet_cifar  # noqa: E402, F401  (register theirs)
