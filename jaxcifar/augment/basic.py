"""The basic augmentations: normalisation, crop, flip, cutout and random erasing.

The tf.data pipelines have their own form of crop and flip, see `data.host_pipeline`.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Returns float32 images from which the mean is subtracted, divided by the deviation.

    Args:
      images: uint8 [B, H, W, C].
      mean: mean of each channel over the data set, on the scale from 0 to 1.
      std: standard deviation of each channel over all pixels, on the same scale.
    """
    scale = 255.0 * jnp.array(std, jnp.float32)
    offset = jnp.array(mean, jnp.float32) / jnp.array(std, jnp.float32)
    return images.astype(jnp.float32) / scale - offset


def random_crop(keys: jax.Array, images: jax.Array, padding: int, mode: str = "zeros") -> jax.Array:
    """Returns images [B, H, W, C] padded on all sides and cropped back at random.

    He et al. 2015, section 4.2, with zeros; Jordan 2024, section 3.6, by reflection.

    Args:
      keys: one key per image, [B].
      images: images to crop.
      padding: number of pixels on each side.
      mode: "zeros", or "reflect" for the image mirrored at its outermost pixels.
    """
    # Without the barrier XLA on a GPU draws the corner again for every pixel.
    corners = lax.optimization_barrier(jax.vmap(partial(_draw_corner, padding))(keys))
    return jax.vmap(partial(crop, padding=padding, mode=mode))(corners, images)


def _draw_corner(padding: int, key: jax.Array) -> jax.Array:
    return jax.random.randint(key, (2,), 0, 2 * padding + 1)


def crop(corner: jax.Array, image: jax.Array, padding: int, mode: str = "zeros") -> jax.Array:
    """Returns an image [H, W, C] padded on all sides and cropped back.

    Args:
      corner: first row and column to keep of the padded image, int32 [2], from 0 to 2 * padding.
      image: image to crop.
      padding: number of pixels on each side.
      mode: see `random_crop`.
    """
    widths = ((padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(image, widths, mode="reflect" if mode == "reflect" else "constant")
    return lax.dynamic_slice(padded, (*corner, 0), image.shape)


def flip(images: jax.Array, mirrored: jax.Array) -> jax.Array:
    """Returns images [B, H, W, C], mirrored left to right where `mirrored`, bool [B], is True."""
    # As in `random_crop`, the draw is kept apart from the pixels.
    mirrored = lax.optimization_barrier(mirrored)
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def cutout(key: jax.Array, image: jax.Array, size: int) -> jax.Array:
    """Returns a normalised image [H, W, C] with a square of `size` pixels set to the mean, 0.

    DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout",
    section 3: the square's centre is any pixel, so part of the square may be outside the image.
    """
    height, width, _ = image.shape
    centre = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
    top, left = centre - size // 2
    return jnp.where(rectangle(image, top, left, size, size), 0.0, image)


def erase(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """Returns a normalised image [H, W, C] in which, with `probability`, a rectangle is set to 0.

    Zhong et al. 2017, "Random Erasing Data Augmentation", section 3.2: 2 to 40 % of the area, with
    an aspect ratio from 0.3 to 1 / 0.3, here uniform in its logarithm, as in torchvision. A side
    longer than the image's is cut to it, where the paper draws again.
    """
    height, width, _ = image.shape
    chance, shape, place = jax.random.split(key, 3)
    area, ratio = jax.random.uniform(shape, (2,))
    area = (0.02 + 0.38 * area) * height * width
    ratio = jnp.exp((2 * ratio - 1) * jnp.log(1 / 0.3))
    sides = jnp.sqrt(area * jnp.array([ratio, 1 / ratio]))
    sides = jnp.clip(jnp.round(sides), 1, jnp.array([height, width])).astype(jnp.int32)
    corner = jax.random.randint(place, (2,), 0, jnp.array([height, width]) - sides + 1)
    erased = jnp.where(rectangle(image, *corner, *sides), 0.0, image)
    return jnp.where(jax.random.bernoulli(chance, probability), erased, image)


def rectangle(
    image: jax.Array, top: jax.Array, left: jax.Array, height: jax.Array, width: jax.Array
) -> jax.Array:
    """Returns bool [H, W, 1] for an image [H, W, C]: whether a pixel is in the rectangle."""
    row, column = jnp.arange(image.shape[-3])[:, None], jnp.arange(image.shape[-2])
    inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
    return inside[..., None]
