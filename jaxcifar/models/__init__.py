"""The networks, by name.

A model is a linen module called as `model(images, train=...)`, with float images [B, H, W, C], and
returns float32 logits [B, classes].
"""

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


def names() -> list[str]:
    """Returns the names of all registered models, in the order of registration."""
    return list(_REGISTRY)


def check_name(name: str) -> None:
    """Raises an InputError with the near names if no model is called `name`."""
    if name not in _REGISTRY:
        raise errors.unknown("model.name", name, _REGISTRY)


def create(name: str, **fields: Any) -> nn.Module:
    """Returns the model called `name`, with `fields` of its module beside those it stands for.

    Raises:
      InputError: if there is no such model, or its fields do not fit together.
    """
    check_name(name)
    module, variant = _REGISTRY[name]
    return module(**variant, **fields)


from jaxcifar.models import resnet_cifar  # noqa: E402, F401  (registers its models)
