"""Common corruptions of small images, after those of CIFAR-10-C.

Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", section 4, with the parameters of the authors' code for CIFAR-10. Images, random
numbers and some details differ from the published files: fog, for one, is a sum of octaves of noise
instead of a diamond-square fractal. What needs textures (frost), ImageMagick (motion blur, snow) or
a loop over pixels (glass blur) is left out.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

# Floats [N, H, W, C] from 0 to 1, a parameter, a random state -> the same, perhaps beyond 0 and 1.
Corrupt = Callable[[np.ndarray, Any, np.random.RandomState], np.ndarray]


class Corruption(NamedTuple):
    """A kind of corruption.

    Attributes:
      group: noise, blur, weather or digital.
      function: what it does to images.
      parameters: its parameter at each of five strengths.
    """

    group: str
    function: Corrupt
    parameters: Sequence[Any]


def corrupt(images: np.ndarray, name: str, strength: int, seed: int = 0) -> np.ndarray:
    """Returns corrupted images.

    Args:
      images: uint8 [N, H, W, C] with 1 or 3 channels.
      name: one of `CORRUPTIONS`.
      strength: from 1 to 5.
      seed: seed of the random numbers.

    Returns:
      uint8 [N, H, W, C].
    """
    kind = CORRUPTIONS[name]
    random = np.random.RandomState(seed)
    corrupted = kind.function(images / np.float32(255), kind.parameters[strength - 1], random)
    return np.round(255 * np.clip(corrupted, 0, 1)).astype(np.uint8)


def _gaussian_noise(x: np.ndarray, deviation: float, random: np.random.RandomState) -> np.ndarray:
    return x + random.normal(0, deviation, x.shape)


def _shot_noise(x: np.ndarray, photons: int, random: np.random.RandomState) -> np.ndarray:
    """The noise of counting photons, of which a white pixel has so many."""
    return random.poisson(x * photons) / photons


def _impulse_noise(x: np.ndarray, share: float, random: np.random.RandomState) -> np.ndarray:
    """Salt and pepper: a share of the values becomes 0 or 1."""
    drawn = random.uniform(size=x.shape)
    return np.where(drawn < share / 2, 0, np.where(drawn < share, 1, x))


def _defocus_blur(x: np.ndarray, parameter: tuple[float, float], _: Any) -> np.ndarray:
    """Convolution with a disk of some radius, whose edge is smoothed by a 3x3 Gaussian."""
    radius, deviation = parameter
    reach = int(radius) + 1
    distances = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
    disk = np.pad((distances <= radius).astype(np.float32), 1)
    weights = np.exp(-(np.arange(-1, 2) ** 2) / (2 * deviation**2))
    smoothing = np.outer(weights, weights)
    kernel = ndimage.convolve(disk, smoothing, mode="constant")
    kernel /= kernel.sum()
    return ndimage.correlate(x, kernel[None, :, :, None].astype(np.float32), mode="mirror")


def _gaussian_blur(x: np.ndarray, deviation: float, _: Any) -> np.ndarray:
    return ndimage.gaussian_filter(x, (0, deviation, deviation, 0), mode="nearest")


def _zoom_blur(x: np.ndarray, largest: float, _: Any) -> np.ndarray:
    """The mean of the image and of its centre enlarged by 1, 1.01, ... times."""
    factors = np.arange(1, largest, 0.01)
    total = x.copy()
    for factor in factors:
        rows, columns = (_enlarge(size, factor) for size in x.shape[1:3])
        total += np.einsum("ih,nhwc,jw->nijc", rows, x, columns, optimize=True)
    return total / (len(factors) + 1)


def _enlarge(size: int, factor: float) -> np.ndarray:
    """The matrix [size, size] that enlarges the centre of a line of pixels, linearly."""
    centre = (size - 1) / 2
    places = np.clip((np.arange(size) - centre) / factor + centre, 0, size - 1)
    lower = np.minimum(places.astype(int), size - 2)
    matrix = np.zeros((size, size), np.float32)
    matrix[np.arange(size), lower] = 1 - (places - lower)
    matrix[np.arange(size), lower + 1] = places - lower
    return matrix


def _fog(
    x: np.ndarray, parameter: tuple[float, float], random: np.random.RandomState
) -> np.ndarray:
    """Adds clouds and dims the whole to the old maximum; octaves decay by the second parameter."""
    amount, decay = parameter
    clouds = _clouds(x.shape[:3], decay, random)[..., None]
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    return (x + amount * clouds) * brightest / (brightest + amount)


def _clouds(shape: tuple[int, ...], decay: float, random: np.random.RandomState) -> np.ndarray:
    """Noise [N, H, W] from 0 to 1, with details on all scales."""
    count, height, width = shape
    total = np.zeros(shape)
    cells, weight = 2, 1.0
    while cells <= max(height, width):
        noise = random.uniform(size=(count, cells + 1, cells + 1))
        rows, columns = (_stretch(cells + 1, size) for size in (height, width))
        total += weight * np.einsum("ih,nhw,jw->nij", rows, noise, columns, optimize=True)
        cells, weight = 2 * cells, weight / decay
    total -= total.min(axis=(1, 2), keepdims=True)
    return total / total.max(axis=(1, 2), keepdims=True)


def _stretch(points: int, size: int) -> np.ndarray:
    """The matrix [size, points] that interpolates a line of points linearly."""
    places = np.linspace(0, points - 1, size)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(points)))


def _brightness(x: np.ndarray, amount: float, _: Any) -> np.ndarray:
    """Adds to the value of HSV: hue and saturation stay, so colours are scaled."""
    value = x.max(axis=3, keepdims=True)
    brighter = np.clip(value + amount, 0, 1)
    return np.where(value > 0, x * brighter / np.maximum(value, 1e-6), brighter)


def _contrast(x: np.ndarray, factor: float, _: Any) -> np.ndarray:
    mean = x.mean(axis=(1, 2), keepdims=True)
    return (x - mean) * factor + mean


def _pixelate(x: np.ndarray, factor: float, _: Any) -> np.ndarray:
    """Resizes each image to a part of its size and back, with Pillow's box filter."""

    def pixelate(image: Image.Image) -> Image.Image:
        size = tuple(int(side * factor) for side in image.size)
        return image.resize(size, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)

    return _with_pillow(x, pixelate)


def _jpeg(x: np.ndarray, quality: int, _: Any) -> np.ndarray:
    """Compresses each image."""

    def compress(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _with_pillow(x, compress)


def _with_pillow(x: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    levels = np.round(255 * x).astype(np.uint8)
    squeezed = levels[..., 0] if levels.shape[-1] == 1 else levels
    changed = [np.asarray(change(Image.fromarray(image))) for image in squeezed]
    return np.stack(changed).reshape(x.shape) / np.float32(255)


CORRUPTIONS = {
    "gaussian_noise": Corruption("noise", _gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": Corruption("noise", _shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": Corruption("noise", _impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": Corruption(
        "blur", _defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
    ),
    "gaussian_blur": Corruption("blur", _gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1)),
    "zoom_blur": Corruption("blur", _zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "fog": Corruption("weather", _fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": Corruption("weather", _brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Corruption("digital", _contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelate": Corruption("digital", _pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": Corruption("digital", _jpeg, (80, 65, 58, 50, 40)),
}
