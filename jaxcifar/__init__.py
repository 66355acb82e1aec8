"""A functional JAX/Flax trainer for the classic CIFAR networks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcifar.trained import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":  # JAX is imported when it is needed
        from jaxcifar.trained import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
