"""Images in the size and with the channels that a config asks for, computed with Pillow and NumPy.

Each image is resized once, so that its shorter side is `image_size`, and its centre is cropped.
"""

import math

import numpy as np
from PIL import Image

from jaxcifar.errors import InputError

MAX_PIXELS = 2**27  # limit on what is decoded: a damaged header may hold any size

_CHUNK = 4096  # images that are converted at once


def evaluation_resize(image_size: int) -> int:
    """Returns what the shorter side is resized to before ImageNet's usual centre crop."""
    return round(image_size * 256 / 224)


def fit(image: Image.Image, image_size: int, resize: int = 0) -> Image.Image:
    """Returns the centre of an image whose shorter side has been resized.

    The resampling is bilinear and antialiased; sides and offsets are rounded as in torchvision's
    Resize and CenterCrop.

    Args:
      image: image of any mode.
      image_size: width and height of the result, in pixels.
      resize: length of the resized shorter side, in pixels; 0 for `image_size`.

    Raises:
      ValueError: if the image is so long and thin that the resized one is huge.
    """
    shorter = min(image.size)
    width, height = ((resize or image_size) * side // shorter for side in image.size)
    if width * height > MAX_PIXELS:
        raise ValueError("too long and thin")
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    return image.crop((left, top, left + image_size, top + image_size))


def fit_pixels(pixels: np.ndarray, image_size: int) -> np.ndarray:
    """Returns uint8 [S, S, C] for an image [H, W, C] of one or three channels, see `fit`."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return np.asarray(fit(image, image_size)).reshape(image_size, image_size, -1)


def resize(images: np.ndarray, image_size: int) -> np.ndarray:
    """Returns uint8 [N, S, S, C] for images [N, H, W, C]; themselves if `image_size` is 0."""
    if image_size in (0, images.shape[1]) and images.shape[1] == images.shape[2]:
        return images
    if not image_size:
        height, width = images.shape[1:3]
        raise InputError(
            f"dataset.image_size = 0: images of {height}x{width} pixels are not square; set it to "
            "the size that the shorter side is resized to before the centre is cropped"
        )
    resized = np.empty((len(images), image_size, image_size, images.shape[3]), np.uint8)
    for index, pixels in enumerate(images):
        resized[index] = fit_pixels(pixels, image_size)
    return resized


def convert(images: np.ndarray, channels: int) -> np.ndarray:
    """Returns images [..., C] with 1 or 3 channels; themselves if `channels` is 0 or C.

    Grey levels are 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601), rounded as by Pillow.

    Args:
      images: uint8 [N, H, W, C], where C is 1 or 3.
      channels: number of channels of the result, or 0.
    """
    if channels in (0, images.shape[-1]):
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    grey = np.empty((*images.shape[:-1], 1), np.uint8)
    for start in range(0, len(images), _CHUNK):
        red, green, blue = np.moveaxis(images[start : start + _CHUNK].astype(np.uint32), -1, 0)
        # Pillow's weights in units of 2^-16 (Convert.c, L24).
        luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
        grey[start : start + _CHUNK, ..., 0] = luma
    return grey


def statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel, on the scale from 0 to 1.

    They are computed from exact counts of the 256 levels, so they are the same on every machine.

    Args:
      images: uint8 [N, H, W, C].

    Raises:
      InputError: if a channel has the same level everywhere.
    """
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(images), _CHUNK):
        for channel, count in enumerate(counts):
            levels = images[start : start + _CHUNK, ..., channel]
            count += np.bincount(levels.ravel(), minlength=256)
    pixels = [int(count.sum()) for count in counts]
    sums = [sum(level * int(n) for level, n in enumerate(count)) for count in counts]
    squares = [sum(level**2 * int(n) for level, n in enumerate(count)) for count in counts]
    spreads = [n * q - s**2 for n, s, q in zip(pixels, sums, squares, strict=True)]
    if 0 in spreads:
        raise InputError(
            f"dataset.std = (): channel {spreads.index(0)} has the same level in all pixels of all "
            "training images, so it cannot be normalised; set dataset.mean and dataset.std"
        )
    mean = tuple(s / (255 * n) for s, n in zip(sums, pixels, strict=True))
    std = tuple(math.sqrt(spread) / (255 * n) for spread, n in zip(spreads, pixels, strict=True))
    return mean, std
