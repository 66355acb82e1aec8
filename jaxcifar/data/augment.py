"""Image functions in JAX: pure, on whole batches, inside the jitted step."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Returns float32 images with the data set's mean taken off and its deviation made one.

    Args:
      images: uint8 [B, H, W, C].
      mean: of each channel, on the scale from 0 to 1.
      std: standard deviation of each channel over all pixels, on the same scale.
    """
    scale = 255.0 * jnp.array(std, jnp.float32)
    offset = jnp.array(mean, jnp.float32) / jnp.array(std, jnp.float32)
    return images.astype(jnp.float32) / scale - offset
