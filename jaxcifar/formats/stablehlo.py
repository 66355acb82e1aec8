"""A function in StableHLO, which any later JAX can run without the code that it was made of.

JAX promises that it can read such a file for six months, and on a best-effort basis for longer
(docs.jax.dev, "Exporting and serialization", compatibility guarantees).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import export

from jaxcifar.kernels import native

PLATFORMS = ("cpu", "cuda")


def serialize(function: Callable[[jax.Array], jax.Array], image_shape: tuple[int, ...]) -> bytes:
    """Returns a function of uint8 images [N, H, W, C] in StableHLO, for any N.

    Args:
      function: the function; arrays that it closes over become part of the result.
      image_shape: height, width and channels.
    """
    (size,) = export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((size, *image_shape), jnp.uint8)
    with native.switched_off():  # the compiled kernels are of this machine alone
        exported = export.export(jax.jit(lambda x: function(x)), platforms=PLATFORMS)(images)
    return exported.serialize()
