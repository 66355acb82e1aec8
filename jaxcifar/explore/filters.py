"""What kernel, stride, padding and dilation of a convolution do to an image."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcifar.errors import InputError, unknown
from jaxcifar.regular_files import check_regular

PADDINGS = ("valid", "same", "reflect")


class Convolution(NamedTuple):
    """A convolution of a square kernel with one image axis, and the size that it gives.

    Attributes:
      input_size: length of the axis, in pixels.
      kernel_size: length of the kernel.
      stride: pixels from one output to the next.
      dilation: pixels from one entry of the kernel to the next.
      before, after: pixels that are added at the ends of the axis.
    """

    input_size: int
    kernel_size: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def output_size(self) -> int:
        """Number of outputs; 0 if the kernel does not fit in."""
        reach = self.dilation * (self.kernel_size - 1) + 1
        room = self.input_size + self.before + self.after - reach
        return room // self.stride + 1 if room >= 0 else 0

    @property
    def formula(self) -> str:
        """How `output_size` is computed, in numbers."""
        return (
            f"⌊({self.input_size} + {self.before + self.after} - {self.dilation}·"
            f"({self.kernel_size} - 1) - 1) / {self.stride}⌋ + 1 = {self.output_size}"
        )


def convolution(
    input_size: int, kernel_size: int, stride: int, padding: str, dilation: int
) -> Convolution:
    """Returns a convolution of one axis with its padding in pixels.

    Args:
      input_size: length of the axis.
      kernel_size: length of the kernel.
      stride, dilation: see `Convolution`.
      padding: "valid" for none; "same" for ceil(input_size / stride) outputs, with zeros around the
        image, or "reflect", with the image mirrored around its outermost pixels.
    """
    if padding == "valid":
        return Convolution(input_size, kernel_size, stride, dilation, 0, 0)
    outputs = -(-input_size // stride)
    total = max((outputs - 1) * stride + dilation * (kernel_size - 1) + 1 - input_size, 0)
    return Convolution(input_size, kernel_size, stride, dilation, total // 2, total - total // 2)


def convolve(
    image: np.ndarray, kernel: np.ndarray, stride: int, padding: str, dilation: int
) -> tuple[np.ndarray, Convolution, Convolution]:
    """Applies a kernel to each channel of an image, as a convolutional layer does: not mirrored.

    Args:
      image: [H, W, C].
      kernel: [K, K].
      stride, padding, dilation: see `convolution`.

    Returns:
      float32 [H', W', C], and the convolutions of height and width.

    Raises:
      InputError: if the kernel does not fit into the image.
    """
    rows, columns = (
        convolution(size, len(kernel), stride, padding, dilation) for size in image.shape[:2]
    )
    if not (rows.output_size and columns.output_size):
        raise InputError(
            f"a kernel of {len(kernel)} with dilation {dilation} does not fit into an image of "
            f"{image.shape[1]} x {image.shape[0]}"
        )
    widths = [(axis.before, axis.after) for axis in (rows, columns)]
    if padding == "reflect" and any(
        max(width) >= size for width, size in zip(widths, image.shape, strict=False)
    ):
        raise InputError(f"the image is too small to be reflected by {max(widths[0])} pixels")
    pad_widths = [*widths, (0, 0)]
    pixels = image.astype(np.float32)
    if padding == "reflect":
        padded = np.pad(pixels, pad_widths, mode="reflect")
    else:
        padded = np.pad(pixels, pad_widths)
    channels = jnp.asarray(padded).transpose(2, 0, 1)[:, None]  # as a batch of single channels
    result = lax.conv_general_dilated(
        channels,
        jnp.asarray(kernel, jnp.float32)[None, None],
        (stride, stride),
        "VALID",
        rhs_dilation=(dilation, dilation),
        precision=lax.Precision.HIGHEST,
    )
    return np.asarray(result[:, 0].transpose(1, 2, 0)), rows, columns


def kernel(name: str, size: int, seed: int = 0) -> np.ndarray:
    """Returns a kernel [K, K] by its name, or from a file with a row per line.

    Args:
      name: one of `KERNELS`, or a file of numbers separated by commas or spaces, or .npy.
      size: its length, odd and at least 3; a file has its own.
      seed: seed of the random kernel.

    Raises:
      InputError: if there is no such kernel, or the file has none.
    """
    if name in KERNELS:
        if size < 3 or size % 2 == 0:
            raise InputError(f"--size={size}: must be odd, and at least 3")
        return KERNELS[name](size, seed)
    path = Path(name)
    if not path.exists():
        raise unknown("kernel", name, [*KERNELS, "or a file"])
    return _from_file(path)


def _from_file(path: Path) -> np.ndarray:
    check_regular(path)
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            values = np.array(
                [
                    [float(number) for number in line.replace(",", " ").split()]
                    for line in path.read_text().splitlines()
                    if line.strip()
                ]
            )
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a table of numbers: {error}") from error
    if values.ndim != 2 or len(set(values.shape)) > 1 or not np.isfinite(values).all():
        raise InputError(f"{path}: has shape {values.shape}; a kernel must be square and finite")
    return values.astype(np.float64)


def _binomial(size: int) -> np.ndarray:
    row = np.ones(1)
    for _ in range(size - 1):
        row = np.convolve(row, [1, 1])
    return row


def _sobel(size: int, seed: int) -> np.ndarray:
    """The derivative along x of a binomial filter, Sobel and Feldman 1968, for any size."""
    derivative = np.convolve(_binomial(size - 2), [-1, 0, 1])
    return np.outer(_binomial(size), derivative)


def _gaussian(size: int, seed: int) -> np.ndarray:
    positions = np.arange(size) - size // 2
    deviation = size / 5
    row = np.exp(-(positions**2) / (2 * deviation**2))
    return np.outer(row, row) / row.sum() ** 2


def _laplacian(size: int, seed: int) -> np.ndarray:
    values = -np.ones((size, size))
    values[size // 2, size // 2] += size**2
    return values


def _sharpen(size: int, seed: int) -> np.ndarray:
    """Unsharp masking: twice the image less the blurred one."""
    values = -_gaussian(size, seed)
    values[size // 2, size // 2] += 2
    return values


def _random(size: int, seed: int) -> np.ndarray:
    """He et al. 2015, as a layer with one channel is initialised."""
    deviation = (2 / size**2) ** 0.5
    return np.random.RandomState(seed).normal(0, deviation, (size, size))


KERNELS: dict[str, Callable[[int, int], np.ndarray]] = {
    "sobel_x": _sobel,
    "sobel_y": lambda size, seed: _sobel(size, seed).T,
    "gaussian": _gaussian,
    "box": lambda size, _: np.full((size, size), 1 / size**2),
    "sharpen": _sharpen,
    "laplacian": _laplacian,
    "random": _random,
}


def as_pixels(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Returns the result of a convolution as uint8 [H, W, C], to be looked at.

    A kernel whose sum is 1 gives an image of the same brightness. Otherwise 0 becomes middle grey,
    and the largest magnitude black or white.

    Args:
      values: [H, W, C], from an image with levels from 0 to 255.
      kernel: [K, K].
    """
    if not np.isclose(kernel.sum(), 1, atol=1e-3):
        values = 127.5 * (1 + values / max(float(np.abs(values).max()), 1e-9))
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


class Result(NamedTuple):
    """One tile of a grid: the pixels, uint8 [H, W, C], and lines of text."""

    pixels: np.ndarray
    caption: Sequence[str]


def grid(
    image: np.ndarray,
    kernel: np.ndarray,
    strides: Sequence[int],
    paddings: Sequence[str],
    dilations: Sequence[int],
) -> list[Result]:
    """Returns what each combination makes of an image, with sizes and their formula.

    A row of the grid has one padding and dilation: the image, then the result for each stride.

    Args:
      image: uint8 [H, W, C].
      kernel: [K, K].
      strides, paddings, dilations: values to combine.
    """
    height, width = image.shape[:2]
    results = []
    for dilation in dilations:
        for padding in paddings:
            results.append(Result(image, ["the image", f"{width} x {height}"]))
            for stride in strides:
                values, rows, columns = convolve(image, kernel, stride, padding, dilation)
                caption = [
                    f"stride {stride}, {padding}"
                    + (f", dilation {dilation}" if dilation > 1 else ""),
                    f"{columns.output_size} x {rows.output_size}",
                    columns.formula,
                ]
                results.append(Result(as_pixels(values, kernel), caption))
    return results
