"""The AutoAugment family of operations on one uint8 image [H, W, C], as Pillow computes them.

The operations are those of Cubuk et al., 2019, table 6; C is 3 or 1. Results are equal to Pillow's,
except for levels of AutoContrast that Pillow's rounding makes one darker.

Each operation is a warp, a table look-up or a blend, so `apply_operation` does all three, of which
at most one has an effect. Under vmap a `lax.switch` would compute every branch; here choosing an
operation means choosing a row of numbers.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcifar.errors import unknown

Fill = int | Sequence[int]


class Operation(NamedTuple):
    """One operation as numbers; the defaults change nothing.

    Attributes:
      warp: [a, b, c, d, e, f] times 65536, int32 [6]: the output's column x and row y is the
        input's column floor(a x + b y + c) and row floor(d x + e y + f).
      tone: the table that depends on the image: 0 none, 1 AutoContrast, 2 Equalize.
      threshold: grey levels from this one up are inverted.
      mask: the bits of a grey level that are kept.
      degenerate: image to blend with: 0 black, 1 the mean, 2 greyscale, 3 smoothed.
      factor: weight of the image in the blend: 0 is the degenerate image, 1 the image itself;
        above 1 the blend is extrapolated.
    """

    warp: np.ndarray = np.array([65536, 0, 32768, 0, 65536, 32768], np.int32)
    tone: np.ndarray = np.int32(0)
    threshold: np.ndarray = np.int32(256)
    mask: np.ndarray = np.int32(255)
    degenerate: np.ndarray = np.int32(0)
    factor: np.ndarray = np.float32(1)


def _affine(a: float, b: float, c: float, d: float, e: float, f: float) -> Operation:
    # A pixel's position is its centre, hence the halves. Pillow rounds the same sums to fixed point
    # from float64 (Geometry.c, affine_fixed).
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


# Name -> (magnitude, height, width) -> operation.
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

    Units and signs of `magnitude` are those of torchvision on Pillow images:

    - ShearX, ShearY: the slope;
    - TranslateX, TranslateY: pixels to the right or down, truncated to a whole number;
    - Rotate: degrees counterclockwise about the centre;
    - Brightness, Contrast, Color, Sharpness: PIL.ImageEnhance's factor minus 1;
    - Posterize: the number of bits to keep, 1 to 8;
    - Solarize: the lowest grey level to invert.

    The other operations ignore it.

    Raises:
      InputError: if there is no such operation.
    """
    if name not in OPERATIONS:
        raise unknown("operation", name, OPERATIONS)
    return OPERATIONS[name](magnitude, height, width)


def apply_operation(image: jax.Array, operation: Operation, fill: Fill = 0) -> jax.Array:
    """Returns uint8 [H, W, C]: `image` after one operation, as Pillow computes it.

    Args:
      image: uint8 [H, W, C].
      operation: the operation's numbers, which may be traced.
      fill: grey level of pixels from outside the image, or one level per channel.
    """
    image = _look_up(_warp(image, operation.warp, fill), operation)
    candidates = [*degenerates(image), _smooth(image)]
    chosen = [operation.degenerate == i for i in range(4)]
    return blend(jnp.select(chosen, candidates), image, operation.factor)


def _warp(image: jax.Array, warp: jax.Array, fill: Fill) -> jax.Array:
    """As PIL.Image.transform with AFFINE and NEAREST."""
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
    """As autocontrast, equalize, solarize, invert and posterize of PIL.ImageOps."""
    height, width, channels = image.shape
    levels = jnp.arange(256)
    # Each table has one row per channel.
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
    # No change is that large, but the limits keep the product from being fused into the sum, which
    # would round once where Pillow rounds twice, and move levels that should be whole numbers.
    change = jnp.clip(factor * (image - degenerate), -1e6, 1e6)
    # XLA does not promise that a conversion truncates: some of its CPU kernels round to nearest.
    return jnp.floor(jnp.clip(degenerate + change, 0, 255)).astype(jnp.uint8)


def greyscale(image: jax.Array) -> jax.Array:
    """Returns uint8 [H, W, C] whose channels are all the luma of PIL.Image.convert("L")."""
    if image.shape[-1] == 1:
        return image
    luma = (image.astype(jnp.int32) * jnp.array([19595, 38470, 7471])).sum(-1, keepdims=True)
    return jnp.broadcast_to((luma + 0x8000) >> 16, image.shape).astype(jnp.uint8)


def degenerates(image: jax.Array) -> list[jax.Array]:
    """Returns what Brightness, Contrast and Color of PIL.ImageEnhance blend an image with."""
    height, width, _ = image.shape
    grey = greyscale(image)
    size, total = height * width, grey[..., 0].astype(jnp.uint32).sum()
    mean = (total + size // 2) // size  # to the nearest level
    return [jnp.zeros_like(image), jnp.full_like(image, mean), grey]


def _smooth(image: jax.Array) -> jax.Array:
    """As PIL.ImageFilter.SMOOTH, which leaves the border unchanged."""
    height, width, _ = image.shape
    wide = jnp.pad(image.astype(jnp.int32), ((1, 1), (1, 1), (0, 0)))
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * image.astype(jnp.int32)
    row, column = np.arange(height)[:, None, None], np.arange(width)[:, None]
    inner = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)
    return jnp.where(inner, (2 * total + 13) // 26, image).astype(jnp.uint8)
