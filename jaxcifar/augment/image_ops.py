"""Operations on one uint8 image [H, W, C] with their strength given; C is 3 or 1.

The AutoAugment family (Cubuk et al., 2019, table 6) is equal to Pillow's, but for levels of
AutoContrast that Pillow's rounding makes one darker. Each of its operations is a warp, a table
look-up or a blend, so `apply_operation` does all three, neutral but for one: under vmap a
`lax.switch` would compute every branch, while here the choice of an operation is the choice of a
row of numbers.

The others are those of albumentations 1.3, which computes them by OpenCV.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcifar.errors import unknown

Fill = int | Sequence[int]


class Operation(NamedTuple):
    """One operation of the AutoAugment family in numbers; the defaults change nothing.

    Attributes:
      warp: [a, b, c, d, e, f] times 65536, int32 [6]: the output's column x and row y is the
        input's column floor(a x + b y + c) and row floor(d x + e y + f).
      tone: the table that depends on the image: 0 none, 1 AutoContrast, 2 Equalize.
      threshold: grey levels from this one up are inverted.
      mask: the bits of a grey level that are kept.
      degenerate: what the image is blended with: 0 black, 1 its mean, 2 greyscale, 3 smoothed.
      factor: of the blend: 0 is the degenerate image, 1 the image, more goes beyond it.
    """

    warp: np.ndarray = np.array([65536, 0, 32768, 0, 65536, 32768], np.int32)
    tone: np.ndarray = np.int32(0)
    threshold: np.ndarray = np.int32(256)
    mask: np.ndarray = np.int32(255)
    degenerate: np.ndarray = np.int32(0)
    factor: np.ndarray = np.float32(1)


def _affine(a: float, b: float, c: float, d: float, e: float, f: float) -> Operation:
    # A pixel lies at its centre, hence the halves. Pillow rounds the same sums to fixed point, from
    # float64 (Geometry.c, affine_fixed).
    matrix = np.array([a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5])
    return Operation(warp=np.floor(matrix * 65536 + 0.5).astype(np.int32))


def _rotate(degrees: float, height: int, width: int) -> Operation:
    # PIL.Image.rotate, which rounds to 15 digits so that right angles are exact.
    cos = round(np.cos(np.radians(degrees)), 15)
    sin = round(np.sin(np.radians(degrees)), 15)
    x, y = width / 2, height / 2
    return _affine(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def _enhance(degenerate: int, magnitude: float) -> Operation:
    return Operation(degenerate=np.int32(degenerate), factor=np.float32(1 + magnitude))


# Name -> the operation of (magnitude, height, width).
OPERATIONS: dict[str, Callable[[float, int, int], Operation]] = {
    "Identity": lambda m, h, w: Operation(),
    "ShearX": lambda m, h, w: _affine(1, m, 0, 0, 1, 0),
    "ShearY": lambda m, h, w: _affine(1, 0, 0, m, 1, 0),
    "TranslateX": lambda m, h, w: _affine(1, 0, -int(m), 0, 1, 0),
    "TranslateY": lambda m, h, w: _affine(1, 0, 0, 0, 1, -int(m)),
    "Rotate": _rotate,
    "Brightness": lambda m, h, w: _enhance(0, m),
    "Contrast": lambda m, h, w: _enhance(1, m),
    "Color": lambda m, h, w: _enhance(2, m),
    "Sharpness": lambda m, h, w: _enhance(3, m),
    "Posterize": lambda m, h, w: Operation(mask=np.int32(256 - 2 ** (8 - int(m)))),
    "Solarize": lambda m, h, w: Operation(threshold=np.int32(np.ceil(m))),
    "AutoContrast": lambda m, h, w: Operation(tone=np.int32(1)),
    "Equalize": lambda m, h, w: Operation(tone=np.int32(2)),
    "Invert": lambda m, h, w: Operation(threshold=np.int32(0)),
}


def operation(name: str, magnitude: float, height: int, width: int) -> Operation:
    """Returns the numbers of one operation on images [height, width, C].

    Units and signs of `magnitude` are torchvision's on Pillow images: ShearX and ShearY take the
    slope, TranslateX and TranslateY pixels to the right and down (a fraction is cut off), Rotate
    degrees counterclockwise about the centre; Brightness, Contrast, Color and Sharpness
    PIL.ImageEnhance's factor less one; Posterize the bits to keep, 1 to 8; Solarize the lowest grey
    level to invert. The others ignore it.

    Raises:
      InputError: there is no such operation.
    """
    if name not in OPERATIONS:
        raise unknown("operation", name, OPERATIONS)
    return OPERATIONS[name](magnitude, height, width)


def apply_operation(image: jax.Array, operation: Operation, fill: Fill = 0) -> jax.Array:
    """Returns uint8 [H, W, C]: `image` after one operation, as Pillow computes it.

    Args:
      image: uint8 [H, W, C].
      operation: its numbers; they may be traced.
      fill: grey level of what comes from outside the image, or one for each channel.
    """
    image = _look_up(_warp(image, operation.warp, fill), operation)
    degenerates = [*_degenerates(image), _smooth(image)]
    chosen = [operation.degenerate == i for i in range(4)]
    return blend(jnp.select(chosen, degenerates), image, operation.factor)


def _warp(image: jax.Array, warp: jax.Array, fill: Fill) -> jax.Array:
    """PIL.Image.transform with AFFINE and NEAREST."""
    height, width, channels = image.shape
    a, b, c, d, e, f = (warp[i] for i in range(6))
    row, column = jnp.arange(height)[:, None], jnp.arange(width)
    x = (a * column + b * row + c) >> 16
    y = (d * column + e * row + f) >> 16
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    source = jnp.where(inside, y * width + x, 0)
    warped = image.reshape(height * width, channels)[source]
    return jnp.where(inside[..., None], warped, jnp.array(fill, jnp.uint8))


def _look_up(image: jax.Array, operation: Operation) -> jax.Array:
    """PIL.ImageOps' autocontrast, equalize, solarize, invert and posterize."""
    height, width, channels = image.shape
    levels = jnp.arange(256)
    # One row of each table for a channel.
    slots = image + 256 * jnp.arange(channels)
    counts = jnp.zeros(256 * channels, jnp.int32).at[slots].add(1).reshape(channels, 256)
    low = image.min((0, 1)).astype(jnp.int32)[:, None]
    high = image.max((0, 1)).astype(jnp.int32)[:, None]

    stretched = jnp.clip(255 * (levels - low) // jnp.maximum(high - low, 1), 0, 255)
    # The pixels below the brightest level are spread over 255 steps.
    step = (height * width - jnp.take_along_axis(counts, high, axis=1)) // 255
    below = jnp.cumsum(counts, axis=1) - counts
    equalized = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)

    table = jnp.where((operation.tone == 1) & (high > low), stretched, levels)
    table = jnp.where((operation.tone == 2) & (step > 0), equalized, table)
    table = jnp.where(table >= operation.threshold, 255 - table, table) & operation.mask
    return table.astype(jnp.uint8).reshape(-1)[slots]


def blend(degenerate: jax.Array, image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns uint8 [H, W, C]: PIL.Image.blend(degenerate, image, factor); factor may exceed 1."""
    degenerate = degenerate.astype(jnp.float32)
    # No change is so large, but the limits keep the product from being fused into the sum: that
    # would round once where Pillow rounds twice, and move a level that should be a whole number.
    change = jnp.clip(factor * (image - degenerate), -1e6, 1e6)
    # XLA does not promise that a conversion truncates: some of its CPU kernels round to nearest.
    return jnp.floor(jnp.clip(degenerate + change, 0, 255)).astype(jnp.uint8)


def greyscale(image: jax.Array) -> jax.Array:
    """Returns uint8 [H, W, C] with equal channels: the luma, as PIL.Image.convert("L") has it."""
    if image.shape[-1] == 1:
        return image
    luma = (image.astype(jnp.int32) * jnp.array([19595, 38470, 7471])).sum(-1, keepdims=True)
    return jnp.broadcast_to((luma + 0x8000) >> 16, image.shape).astype(jnp.uint8)


def _degenerates(image: jax.Array) -> list[jax.Array]:
    """What Brightness, Contrast and Color of PIL.ImageEnhance blend an image with."""
    height, width, _ = image.shape
    grey = greyscale(image)
    size, total = height * width, grey[..., 0].astype(jnp.uint32).sum()
    mean = (total + size // 2) // size  # to the nearest level
    return [jnp.zeros_like(image), jnp.full_like(image, mean), grey]


def _smooth(image: jax.Array) -> jax.Array:
    """PIL.ImageFilter.SMOOTH, which leaves the border as it is."""
    height, width, _ = image.shape
    wide = jnp.pad(image.astype(jnp.int32), ((1, 1), (1, 1), (0, 0)))
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * image.astype(jnp.int32)
    row, column = np.arange(height)[:, None, None], np.arange(width)[:, None]
    inner = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)
    return jnp.where(inner, (2 * total + 13) // 26, image).astype(jnp.uint8)


def color_jitter(
    image: jax.Array, factors: jax.Array, hue: jax.Array | float, order: jax.Array
) -> jax.Array:
    """Returns uint8 [H, W, C] with brightness, contrast, saturation and hue changed.

    Args:
      image: uint8 [H, W, C].
      factors: of brightness, contrast and saturation, as in PIL.ImageEnhance, float32 [3].
      hue: the turn of the hue, of the full circle.
      order: int32 [4], a permutation: 0 brightness, 1 contrast, 2 saturation, 3 hue.
    """

    def change(i, image):
        degenerate = jnp.select([order[i] == j for j in range(3)], _degenerates(image))
        enhanced = blend(degenerate, image, factors[jnp.minimum(order[i], 2)])
        return jnp.where(order[i] == 3, shift_hue(image, hue), enhanced)

    return jax.lax.fori_loop(0, 4, change, image)


def shift_hue(image: jax.Array, turn: jax.Array | float) -> jax.Array:
    """Returns uint8 [H, W, C] with the hue turned, by cv2.COLOR_RGB2HSV and back.

    Args:
      image: uint8 [H, W, C].
      turn: of the full circle; OpenCV keeps the hue in steps of 2 degrees.
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

    # How far a channel lies below the value, by its distance from the hue in sixths of the circle.
    k = (jnp.array([5.0, 3.0, 1.0]) + hue[..., None] / 30) % 6
    share = jnp.clip(jnp.minimum(k, 4 - k), 0, 1)
    return jnp.round(value[..., None] * (1 - saturation[..., None] * share)).astype(jnp.uint8)


def clahe(
    image: jax.Array, clip_limit: jax.Array | float, tiles: tuple[int, int] = (8, 8)
) -> jax.Array:
    """Returns uint8 [H, W, C] whose L of CIE Lab went through cv2.createCLAHE.

    Args:
      image: uint8 [H, W, C]; one channel is taken as L itself.
      clip_limit: above 0, a bin's largest share in multiples of the mean.
      tiles: rows and columns of tiles, each of which has a histogram.
    """
    if image.shape[-1] == 1:
        return _equalize_tiles(image[..., 0], clip_limit, tiles)[..., None]
    lightness, a, b = _rgb_to_lab(image)
    return _lab_to_rgb(_equalize_tiles(lightness, clip_limit, tiles), a, b)


def _equalize_tiles(
    grey: jax.Array, clip_limit: jax.Array | float, tiles: tuple[int, int]
) -> jax.Array:
    """cv2.createCLAHE(clip_limit, tiles).apply on [H, W]; returns uint8."""
    height, width = grey.shape
    rows, columns = tiles
    padded = grey.astype(jnp.int32)
    if height % rows or width % columns:  # OpenCV then pads both, be it by a whole row of tiles
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
    # What was cut off goes to all bins alike, and the rest to bins at equal distances.
    batch, rest = jnp.divmod(area - clipped.sum(1, keepdims=True), 256)
    distance = jnp.maximum(256 // jnp.maximum(rest, 1), 1)
    level = jnp.arange(256)
    total = jnp.cumsum(clipped, 1) + batch * (level + 1) + jnp.minimum(rest, level // distance + 1)
    tables = jnp.round(total * np.float32(255 / area)).reshape(-1)

    y = np.arange(height, dtype=np.float32) * np.float32(1 / tile_height) - np.float32(0.5)
    x = np.arange(width, dtype=np.float32) * np.float32(1 / tile_width) - np.float32(0.5)
    top, left = np.floor(y).astype(int)[:, None], np.floor(x).astype(int)
    down, right = y[:, None] - top, x - left

    def mapped(row, column):
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
    """cv2.COLOR_RGB2LAB (RGB2Lab_b), in its fixed point: L may not be off by one before CLAHE."""
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
    """cv2.COLOR_LAB2RGB on uint8 [H, W] each; returns uint8 [H, W, 3]."""
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
    """Returns uint8 [H, W, C] with holes (DeVries and Taylor, 2017, have one, of fill 0).

    Args:
      image: uint8 [H, W, C].
      corners: row and column of each hole's first pixel, int32 [holes, 2].
      height, width: of every hole, in pixels.
      fill: grey level of the holes, or one for each channel.
    """
    row = np.arange(image.shape[0])[:, None, None] - corners[:, 0]
    column = np.arange(image.shape[1])[:, None] - corners[:, 1]
    hole = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return jnp.where(hole.any(-1)[..., None], jnp.array(fill, jnp.uint8), image)


def remap(image: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns uint8 [H, W, C]: the image at columns x and rows y, float32 [H, W].

    As cv2.remap with INTER_LINEAR and BORDER_REFLECT_101; before its version 5, OpenCV rounds x and
    y to 1/32.
    """
    height, width, channels = image.shape
    pixels = image.reshape(height * width, channels)
    left, top = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    right, down = (x - left)[..., None], (y - top)[..., None]

    def at(row, column):
        return pixels[_reflect_101(row, height) * width + _reflect_101(column, width)]

    above = at(top, left) * (1 - right) + at(top, left + 1) * right
    beneath = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return jnp.round(above * (1 - down) + beneath * down).astype(jnp.uint8)


def _reflect_101(index, size: int):
    """cv2.BORDER_REFLECT_101, which does not repeat the last pixel: 2 1 0 1 2 3 2 1."""
    period = max(2 * (size - 1), 1)
    index = index % period
    return index + (index >= size) * (period - 2 * index)


def grid_distortion(image: jax.Array, x_steps: jax.Array, y_steps: jax.Array) -> jax.Array:
    """Returns uint8 [H, W, C], distorted as by albumentations' GridDistortion.

    Args:
      image: uint8 [H, W, C].
      x_steps, y_steps: how far each cell reaches in the input, in multiples of its size, float32
        [cells + 1]; the last cell is what the division leaves, and ends at the border.
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
      noise: of columns and rows, from -1 to 1, float32 [2, H, W].
      alpha: pixels by which noise of 1 would move, were it not smoothed.
      sigma: standard deviation in pixels of cv2.GaussianBlur with its own size of the kernel.
    """
    height, width, _ = image.shape
    shift = alpha * jnp.einsum(
        "ij,njk,lk->nil", _gaussian(height, sigma), noise, _gaussian(width, sigma)
    )
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    return remap(image, column + shift[0], row + shift[1])


def _gaussian(size: int, sigma: float) -> jax.Array:
    """The matrix [size, size] that smooths a row of pixels, with the border reflected."""
    radius = round(8 * sigma + 1) // 2
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    matrix = np.zeros((size, size))
    pixels = np.arange(size)[:, None]
    np.add.at(matrix, (pixels, _reflect_101(pixels + offsets, size)), kernel / kernel.sum())
    return jnp.array(matrix, jnp.float32)
