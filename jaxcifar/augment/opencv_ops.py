"""Operations on one uint8 image [H, W, C], as albumentations 1.3 computes them with OpenCV.

C is 3 or 1. The caller draws all random numbers.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxcifar.augment.pillow_ops import Fill, blend, degenerates

_Array = TypeVar("_Array", np.ndarray, jax.Array)


def color_jitter(
    image: jax.Array, factors: jax.Array, hue: jax.Array | float, order: jax.Array
) -> jax.Array:
    """Returns uint8 [H, W, C] with brightness, contrast, saturation and hue changed.

    Args:
      image: uint8 [H, W, C].
      factors: brightness, contrast and saturation, as in PIL.ImageEnhance, float32 [3].
      hue: angle by which the hue is rotated, as a fraction of the full circle.
      order: order of the changes, int32 [4], a permutation of 0 brightness, 1 contrast,
        2 saturation, 3 hue.
    """

    def change(i: jax.Array, image: jax.Array) -> jax.Array:
        degenerate = jnp.select([order[i] == j for j in range(3)], degenerates(image))
        enhanced = blend(degenerate, image, factors[jnp.minimum(order[i], 2)])
        return jnp.where(order[i] == 3, shift_hue(image, hue), enhanced)

    return jax.lax.fori_loop(0, 4, change, image)


def shift_hue(image: jax.Array, turn: jax.Array | float) -> jax.Array:
    """Returns uint8 [H, W, C] with the hue rotated, by way of cv2.COLOR_RGB2HSV.

    Args:
      image: uint8 [H, W, C].
      turn: angle as a fraction of the full circle; OpenCV stores the hue in steps of 2 degrees.
    """
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., i].astype(jnp.int32) for i in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    spread = value - jnp.minimum(jnp.minimum(red, green), blue)
    offset = jnp.select(
        [value == red, value == green],
        [green - blue, blue - red + 2 * spread],
        red - green + 4 * spread,
    )
    # Fixed point of 12 bits, as in OpenCV's RGB2HSV_b.
    by_value = jnp.round((255 << 12) / jnp.maximum(value, 1)).astype(jnp.int32)
    by_spread = jnp.round((30 << 12) / jnp.maximum(spread, 1)).astype(jnp.int32)
    saturation = ((spread * by_value + 2048) >> 12) / 255
    hue = (offset * by_spread + 2048) >> 12
    hue = jnp.floor((jnp.where(hue < 0, hue + 180, hue) + 180 * turn) % 180)

    # How far a channel is below the value, by its distance from the hue in sixths of the circle.
    k = (jnp.array([5.0, 3.0, 1.0]) + hue[..., None] / 30) % 6
    share = jnp.clip(jnp.minimum(k, 4 - k), 0, 1)
    return jnp.round(value[..., None] * (1 - saturation[..., None] * share)).astype(jnp.uint8)


def clahe(
    image: jax.Array, clip_limit: jax.Array | float, tiles: tuple[int, int] = (8, 8)
) -> jax.Array:
    """Returns uint8 [H, W, C] with cv2.createCLAHE applied to the L channel of CIE Lab.

    Args:
      image: uint8 [H, W, C]; a single channel is taken as L itself.
      clip_limit: largest count of a histogram bin in multiples of the mean count, above 0.
      tiles: number of rows and columns of tiles, each of which has its own histogram.
    """
    if image.shape[-1] == 1:
        return _equalize_tiles(image[..., 0], clip_limit, tiles)[..., None]
    lightness, a, b = _rgb_to_lab(image)
    return _lab_to_rgb(_equalize_tiles(lightness, clip_limit, tiles), a, b)


def _equalize_tiles(
    grey: jax.Array, clip_limit: jax.Array | float, tiles: tuple[int, int]
) -> jax.Array:
    """As cv2.createCLAHE(clip_limit, tiles).apply on [H, W]; returns uint8."""
    height, width = grey.shape
    rows, columns = tiles
    padded = grey.astype(jnp.int32)
    if height % rows or width % columns:  # OpenCV then pads both, even by a whole row of tiles
        pad = (0, rows - height % rows), (0, columns - width % columns)
        padded = jnp.pad(padded, pad, mode="reflect")
    tile_height, tile_width = padded.shape[0] // rows, padded.shape[1] // columns
    area = tile_height * tile_width
    tile = (
        np.arange(padded.shape[0])[:, None] // tile_height * columns
        + np.arange(padded.shape[1]) // tile_width
    )
    counts = jnp.zeros(rows * columns * 256, jnp.int32).at[256 * tile + padded].add(1)
    counts = counts.reshape(rows * columns, 256)

    limit = jnp.maximum((clip_limit * area / 256).astype(jnp.int32), 1)
    clipped = jnp.minimum(counts, limit)
    # The clipped counts go to all bins equally, and the remainder to bins at equal distances.
    batch, rest = jnp.divmod(area - clipped.sum(1, keepdims=True), 256)
    distance = jnp.maximum(256 // jnp.maximum(rest, 1), 1)
    level = jnp.arange(256)
    total = jnp.cumsum(clipped, 1) + batch * (level + 1) + jnp.minimum(rest, level // distance + 1)
    tables = jnp.round(total * np.float32(255 / area)).reshape(-1)

    y = np.arange(height, dtype=np.float32) * np.float32(1 / tile_height) - np.float32(0.5)
    x = np.arange(width, dtype=np.float32) * np.float32(1 / tile_width) - np.float32(0.5)
    top, left = np.floor(y).astype(int)[:, None], np.floor(x).astype(int)
    down, right = y[:, None] - top, x - left

    def mapped(row: np.ndarray, column: np.ndarray) -> jax.Array:
        tile = np.clip(row, 0, rows - 1) * columns + np.clip(column, 0, columns - 1)
        return tables[256 * tile + grey]

    above = mapped(top, left) * (1 - right) + mapped(top, left + 1) * right
    beneath = mapped(top + 1, left) * (1 - right) + mapped(top + 1, left + 1) * right
    return jnp.round(above * (1 - down) + beneath * down).astype(jnp.uint8)


# CIE XYZ of the sRGB primaries, each row divided by the white point D65.
_XYZ = np.array(
    [
        [0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456],
        [0.212671, 0.715160, 0.072169],
        [0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754],
    ]
)


def _rgb_to_lab(image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As cv2.COLOR_RGB2LAB (RGB2Lab_b), in its fixed point, as CLAHE needs L to be exact."""
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    linear = jnp.array(np.rint(255 * 8 * linear), jnp.int32)[image]
    ratio = np.arange(256 * 8) / (255 * 8)
    root = np.where(ratio < 216 / 24389, ratio * 841 / 108 + 16 / 116, np.cbrt(ratio))
    weights = np.rint(4096 * _XYZ).astype(np.int32)
    index = ((linear[..., None, :] * weights).sum(-1) + 2048) >> 12
    x, y, z = jnp.moveaxis(jnp.array(np.rint(32768 * root), jnp.int32)[index], -1, 0)
    lightness = (296 * y - 1336934 + 16384) >> 15
    a = (500 * (x - y) + (128 << 15) + 16384) >> 15
    b = (200 * (y - z) + (128 << 15) + 16384) >> 15
    return jnp.clip(lightness, 0, 255), jnp.clip(a, 0, 255), jnp.clip(b, 0, 255)


def _lab_to_rgb(lightness: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """As cv2.COLOR_LAB2RGB on uint8 [H, W] each; returns uint8 [H, W, 3]."""
    y = (lightness * (100 / 255) + 16) / 116
    root = jnp.stack([y + (a - 128.0) / 500, y, y - (b - 128.0) / 200], axis=-1)
    xyz = jnp.where(root > 6 / 29, root**3, (root - 16 / 116) * 108 / 841)
    linear = xyz @ jnp.array(np.linalg.inv(_XYZ).T, jnp.float32)
    linear = jnp.clip(linear, 0, 1)
    gamma = 1.055 * jnp.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.round(255 * jnp.where(linear <= 0.0031308, 12.92 * linear, gamma)).astype(jnp.uint8)


def coarse_dropout(
    image: jax.Array, corners: jax.Array, height: int, width: int, fill: Fill = 0
) -> jax.Array:
    """Returns uint8 [H, W, C] with holes (DeVries and Taylor, 2017, use one, filled with 0).

    Args:
      image: uint8 [H, W, C].
      corners: row and column of each hole's first pixel, int32 [holes, 2].
      height, width: size of every hole, in pixels.
      fill: grey level of the holes, or one level per channel.
    """
    row = np.arange(image.shape[0])[:, None, None] - corners[:, 0]
    column = np.arange(image.shape[1])[:, None] - corners[:, 1]
    hole = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return jnp.where(hole.any(-1)[..., None], jnp.array(fill, jnp.uint8), image)


def remap(image: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns uint8 [H, W, C]: the image sampled at columns x and rows y, float32 [H, W].

    As cv2.remap with INTER_LINEAR and BORDER_REFLECT_101; OpenCV before version 5 rounds x and y to
    1/32.
    """
    height, width, channels = image.shape
    pixels = image.reshape(height * width, channels)
    left, top = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    right, down = (x - left)[..., None], (y - top)[..., None]

    def at(row: jax.Array, column: jax.Array) -> jax.Array:
        return pixels[_reflect_101(row, height) * width + _reflect_101(column, width)]

    above = at(top, left) * (1 - right) + at(top, left + 1) * right
    beneath = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return jnp.round(above * (1 - down) + beneath * down).astype(jnp.uint8)


def _reflect_101(index: _Array, size: int) -> _Array:
    """As cv2.BORDER_REFLECT_101, which does not repeat the last pixel: 2 1 0 1 2 3 2 1."""
    period = max(2 * (size - 1), 1)
    index = index % period
    return index + (index >= size) * (period - 2 * index)


def grid_distortion(image: jax.Array, x_steps: jax.Array, y_steps: jax.Array) -> jax.Array:
    """Returns uint8 [H, W, C], distorted like albumentations' GridDistortion.

    Args:
      image: uint8 [H, W, C].
      x_steps, y_steps: width and height of each cell's source in the input, in multiples of the
        cell's size, float32 [cells + 1]. The last cell is the remainder of the division, and its
        source ends at the border.
    """
    height, width, _ = image.shape
    x, y = _grid_positions(x_steps, width), _grid_positions(y_steps, height)
    return remap(image, *jnp.meshgrid(x, y))


def _grid_positions(steps: jax.Array, size: int) -> jax.Array:
    cells = len(steps) - 1
    cell = size // cells
    ends = jnp.append(jnp.cumsum(steps[:-1] * cell), size)
    starts = jnp.append(0.0, ends[:-1])
    lengths = [cell] * cells + [size - cell * cells]
    return jnp.concatenate(
        [jnp.linspace(starts[i], ends[i], length) for i, length in enumerate(lengths)]
    )


def elastic_transform(
    image: jax.Array, noise: jax.Array, alpha: jax.Array | float, sigma: float
) -> jax.Array:
    """Returns uint8 [H, W, C], each pixel moved by smoothed noise (Simard et al., 2003, section 2).

    Args:
      image: uint8 [H, W, C].
      noise: shift of columns and rows before smoothing, from -1 to 1, float32 [2, H, W].
      alpha: factor from smoothed noise to pixels.
      sigma: standard deviation in pixels of the smoothing, cv2.GaussianBlur with automatic kernel
        size.
    """
    height, width, _ = image.shape
    shift = alpha * jnp.einsum(
        "ij,njk,lk->nil", _gaussian(height, sigma), noise, _gaussian(width, sigma)
    )
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    return remap(image, column + shift[0], row + shift[1])


def _gaussian(size: int, sigma: float) -> jax.Array:
    """Returns the matrix [size, size] that smooths a row of pixels, with the border reflected."""
    radius = round(8 * sigma + 1) // 2
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    matrix = np.zeros((size, size))
    pixels = np.arange(size)[:, None]
    np.add.at(matrix, (pixels, _reflect_101(pixels + offsets, size)), kernel / kernel.sum())
    return jnp.array(matrix, jnp.float32)
