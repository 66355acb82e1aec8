"""3x3 convolutions with half of the multiplications, for a CPU.

Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks", sections 4.1 and 4.4. The
rows of an image are cut into tiles of four pixels. F(4, 3) makes the four outputs y of three taps g
and the six pixels d around them of six products instead of twelve: y = A^T [(G g) * (B^T d)]. The
products are summed over the channels and the kernel's rows before A^T is applied. Tiles of two
dimensions would need fewer products still, but take as long in memory as they save.

The results are the plain convolution's but for rounding, some 3e-6 of the largest in float32.
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

# G, B^T and A^T of F(4, 3), for the points 0, 1, -1, 2, -2 and infinity.
FROM_TAPS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
FROM_PIXELS = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
TO_OUTPUTS = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
TILE = 4
# With fewer channels the sums before and after the products take the time that these save.
FEWEST_CHANNELS = 64
# From here on products of matrices are as fast as convolutions, and far fewer kernels to compile.
MANY_CHANNELS = 256


def suits(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> bool:
    """Whether `convolve` makes this convolution of x [N, H, W, in], and faster.

    Not in half precision, in which its rounding would show.
    """
    return (
        kernel.shape[:2] == (3, 3)
        and strides == (1, 1)
        and padding == ((1, 1), (1, 1))
        and x.shape[2] % TILE == 0
        and min(kernel.shape[2:]) >= FEWEST_CHANNELS
        and x.dtype.itemsize >= 4
    )


@jax.custom_vjp
@jax.jit
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the convolution [N, H, W, out], its borders padded by one pixel of zeros.

    Args:
      x: [N, H, W, in], W a multiple of four.
      kernel: [3, 3, in, out].
    """
    columns = [kernel[:, tap] for tap in range(3)]
    return _convolve(x, columns, contracted=1)


@jax.jit
def _gradients(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    columns = [kernel[::-1, 2 - tap] for tap in range(3)]
    return _convolve(dy, columns, contracted=2), _kernel_gradient(x, dy)


convolve.defvjp(lambda x, kernel: (convolve(x, kernel), (x, kernel)), _gradients)


def _convolve(x: jax.Array, columns: Sequence[jax.Array], contracted: int) -> jax.Array:
    """The convolution of x with a kernel of three columns.

    Args:
      x: images [N, H, W, in], or the gradient by the outputs [N, H, W, out].
      columns: [3, in, out] each.
      contracted: which of a column's axes are x's channels, 1 or 2.
    """
    if x.shape[-1] < MANY_CHANNELS:
        pixels = _combine(FROM_PIXELS, _around_tiles(_pad(x, 1, 1, axis=1), axis=2))
        order = (0, contracted, 3 - contracted)
        taps = [part.transpose(order)[:, None] for part in _combine(FROM_TAPS, columns)]
        products = [_conv(d, g) for d, g in zip(pixels, taps, strict=True)]
    else:
        pixels = jnp.stack(_combine(FROM_PIXELS, _around_tiles(x, axis=2)))
        if contracted == 1:
            taps = jnp.stack(_combine(FROM_TAPS, [column.swapaxes(0, 1) for column in columns]))
            products = jnp.einsum("pnhtc,pcf->pnhtf", pixels, taps.reshape(*taps.shape[:2], -1))
        else:
            taps = jnp.stack(_combine(FROM_TAPS, columns))
            taps = taps.reshape(len(taps), -1, taps.shape[-1])
            products = jnp.einsum("pnhtc,pfc->pnhtf", pixels, taps)
        products = products.reshape(*products.shape[:4], 3, -1)
        products = sum(_shift(products[..., tap, :], tap - 1, axis=2) for tap in range(3))
    return jnp.stack(_combine(TO_OUTPUTS, products), 3).reshape(*x.shape[:3], -1)


def _kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient [3, 3, in, out]: G^T [(A dy) * (B^T d)].

    A product is the convolution of one image: its rows are the tiles, its columns the channels of
    x, its channels the images. The kernel is dy, all rows of it, and steps by a row of tiles.
    """
    x = _pad(x.transpose(1, 2, 3, 0), 1, 1, axis=0)
    # The padding is taken off again: it has the transposition made once, not by every reader.
    dy = _pad(dy.transpose(1, 2, 0, 3), 0, 1, axis=0)
    pixels = _combine(FROM_PIXELS, _around_tiles(x, axis=1))
    outputs = [y[:-1] for y in _combine(zip(*TO_OUTPUTS, strict=True), _in_tiles(dy, axis=1))]
    products = [
        _conv(d.reshape(1, -1, *d.shape[2:]), y.reshape(-1, 1, *y.shape[2:]), y.shape[1])[0]
        for d, y in zip(pixels, outputs, strict=True)
    ]
    return jnp.stack(_combine(zip(*FROM_TAPS, strict=True), products), 1)


def _conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """The convolution of x [N, H, W, in] with [taps, 1, in, out], which steps along the height."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, 1), "VALID", dimension_numbers=dimensions)


def _in_tiles(x: jax.Array, axis: int) -> list[jax.Array]:
    """The first, second, third and fourth pixels of all tiles along an axis."""
    x = x.reshape(*x.shape[:axis], -1, TILE, *x.shape[axis + 1 :])
    return [lax.index_in_dim(x, pixel, axis + 1, keepdims=False) for pixel in range(TILE)]


def _around_tiles(x: jax.Array, axis: int) -> list[jax.Array]:
    """The pixels of all tiles along an axis, and the one before and after each tile: six."""
    first, *_, last = pixels = _in_tiles(x, axis)
    return [_shift(last, -1, axis), *pixels, _shift(first, 1, axis)]


def _shift(x: jax.Array, by: int, axis: int) -> jax.Array:
    """What is so much further along an axis, and beyond the ends zeros."""
    after, before = max(0, by), max(0, -by)
    kept = lax.slice_in_dim(x, after, x.shape[axis] - before, axis=axis)
    return _pad(kept, before, after, axis)


def _pad(x: jax.Array, before: int, after: int, axis: int) -> jax.Array:
    return jnp.pad(x, [(before, after) if a == axis else (0, 0) for a in range(x.ndim)])


def _combine(rows: Iterable[Sequence[float]], parts: Iterable[jax.Array]) -> list[jax.Array]:
    """The weighted sums of the parts, one for each row of weights."""
    parts = list(parts)
    return [
        sum(weight * part for weight, part in zip(row, parts, strict=True) if weight)
        for row in rows
    ]
