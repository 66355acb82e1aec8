"""Counts a model's parameters and multiply-adds."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxcifar.kernels import native


class Counts(NamedTuple):
    """Size of a model.

    Attributes:
      parameters: number of trainable values.
      macs: multiply-adds in the forward pass of one image.
    """

    parameters: int
    macs: int


def count(model: nn.Module, image_shape: tuple[int, int, int]) -> Counts:
    """Counts a model's parameters and the multiply-adds of its convolutions and linear layers.

    Args:
      model: network to count.
      image_shape: shape [H, W, C] of an image.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    trace = jax.make_jaxpr(
        lambda images: model.init_with_output(jax.random.key(0), images, train=False),
        return_shape=True,
    )
    jaxpr, (_, variables) = trace(images)
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])]
    return Counts(parameters=sum(sizes), macs=_macs(jaxpr.jaxpr))


def _macs(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "ffi_call":  # a C++ convolution, see `kernels.native`
            x, kernel = (variable.aval.shape for variable in equation.invars)
            pools = equation.params["target_name"] == native.CONVOLVE_AND_POOL
            outputs = (*x[:-1], kernel[-1]) if pools else equation.outvars[0].aval.shape
            total += math.prod(outputs) * math.prod(kernel[:-1])
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = equation.params["dimension_numbers"].rhs_spec[0]
            total += equation.outvars[0].aval.size * math.prod(kernel) // kernel[outputs]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            sums = math.prod(shape[axis] for axis in contracted)
            total += equation.outvars[0].aval.size * sums
        total += sum(_macs(inner) for inner in _inner(equation.params))
    return total


def _inner(params: Any) -> list[Jaxpr]:
    """The jaxprs inside an equation's parameters, such as that of a jitted function."""
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, ClosedJaxpr | Jaxpr))
    return [
        leaf.jaxpr if isinstance(leaf, ClosedJaxpr) else leaf
        for leaf in leaves
        if isinstance(leaf, ClosedJaxpr | Jaxpr)
    ]
