"""GELU in the form that is fastest on a CPU.

`jax.nn.gelu` uses erfc, which XLA computes in two branches and at several times the cost of erf.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Returns x times the normal distribution function of x: Hendrycks and Gimpel 2016, "GELUs".

    The backward pass needs x alone.
    """
    return x * (0.5 + 0.5 * lax.erf(x * math.sqrt(0.5)))


def _backward(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    density = jnp.exp(-jnp.square(x) / 2) / math.sqrt(2 * math.pi)
    # The mirrored form keeps XLA from storing the forward pass's erf in an array of its own.
    distribution = 0.5 - 0.5 * lax.erf(x * -math.sqrt(0.5))
    return (dy * (distribution + x * density),)


gelu.defvjp(lambda x: (gelu(x), x), _backward)
