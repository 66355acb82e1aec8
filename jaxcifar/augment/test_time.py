"""Test-time augmentation: averages predictions over flipped and shifted copies of each image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def averaged_logits(
    apply: Callable[[jax.Array], jax.Array], images: jax.Array, flip: bool, shift: int
) -> jax.Array:
    """Returns float32 [B, classes]: the logarithm of the probabilities averaged over the views.

    These can be used as logits: their softmax is the average. Without `flip` and `shift` they are
    the logits of `apply`, unchanged.

    As in Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks",
    2012, section 4.1, probabilities are averaged, and the shifted views are the four corners of a
    larger image, here the image padded by reflection. KellerJordan/cifar10-airbench averages
    logits instead, over the image, two of the corners at a shift of 1, and the mirror images of
    these three.

    Args:
      apply: float images [B, H, W, C] -> logits [B, classes].
      images: float [B, H, W, C], normalised.
      flip: whether to add the mirror image of each view.
      shift: number of pixels by which images are moved up or down and left or right, less than H
        and W; 0 for no shifted views. There are 1 or 5 views, twice as many with `flip`, and each
        costs one `apply`.
    """
    if not flip and not shift:
        return apply(images)
    # Reflection leaves no border that the network could see, whatever padding training used.
    padding = ((0, 0), (shift, shift), (shift, shift), (0, 0))
    padded = jnp.pad(images, padding, mode="reflect")
    corners = [(row, column) for row in (0, 2 * shift) for column in (0, 2 * shift)]
    offsets = [(shift, shift)] + (corners if shift else [])
    views = np.array([(*offset, mirrored) for offset in offsets for mirrored in range(1 + flip)])

    def log_probabilities(view: jax.Array) -> jax.Array:
        row, column, mirrored = view
        seen = lax.dynamic_slice(padded, (0, row, column, 0), images.shape)
        seen = jnp.where(mirrored, seen[:, :, ::-1], seen)
        return jax.nn.log_softmax(apply(seen).astype(jnp.float32))

    # One view after another, so that only one is compiled and held in memory.
    logs = lax.map(log_probabilities, views)
    return jax.nn.logsumexp(logs, axis=0) - np.log(len(views))
