"""Test-time augmentation: averages predictions over flipped and shifted copies of each image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def averaged_logits(
    apply: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    flip: bool,
    shift: int,
    views: str = "corners",
) -> jax.Array:
    """Returns logits float32 [B, classes], averaged over several views of each image.

    The shifted views are taken from corners of the image padded by reflection. Without `flip` and
    `shift` the result is that of `apply`, unchanged.

    - corners: the logarithm of the probabilities averaged over the image and the four corners
      (Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural Networks",
      section 4.1), whose softmax is the average.
    - two_corners: logits averaged over the image, of weight 1/2, and over the views moved up-left
      and down-right, of weight 1/4 each (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single
      GPU", section 3.5).

    Args:
      apply: float images [B, H, W, C] -> logits [B, classes].
      images: float [B, H, W, C], normalised.
      flip: whether the mirror image of each view is averaged as well.
      shift: number of pixels by which images are moved up or down and left or right, less than H
        and W; 0 for no shifted views. There are 1, 3 or 5 views, twice as many with `flip`, and
        each costs one `apply`.
      views: "corners" or "two_corners".
    """
    if not flip and not shift:
        return apply(images)
    # Reflection leaves no border that the network could see, whatever padding training used.
    padding = ((0, 0), (shift, shift), (shift, shift), (0, 0))
    padded = jnp.pad(images, padding, mode="reflect")
    ends = (0, 2 * shift)
    if not shift:
        corners = []
    elif views == "corners":
        corners = [(row, column) for row in ends for column in ends]
    else:
        corners = [(end, end) for end in ends]
    offsets = [(shift, shift), *corners]
    seen = np.array([(*offset, mirrored) for offset in offsets for mirrored in range(1 + flip)])

    def logits_of(view: jax.Array) -> jax.Array:
        row, column, mirrored = view
        shown = lax.dynamic_slice(padded, (0, row, column, 0), images.shape)
        shown = jnp.where(mirrored, shown[:, :, ::-1], shown)
        return apply(shown).astype(jnp.float32)

    # One view after another, so that only one is compiled and held in memory.
    if views == "corners":
        logs = lax.map(lambda view: jax.nn.log_softmax(logits_of(view)), seen)
        return jax.nn.logsumexp(logs, axis=0) - np.log(len(seen))
    weights = np.array([0.5, 0.25, 0.25][: len(offsets)], np.float32).repeat(1 + flip)
    return jnp.tensordot(weights / weights.sum(), lax.map(logits_of, seen), axes=1)
