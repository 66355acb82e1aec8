"""Images of any size, mode and origin, made into what a trained network takes."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jaxcifar.data import fitting
from jaxcifar.errors import InputError
from jaxcifar.regular_files import check_regular


def read(path: Path) -> Image.Image:
    """Returns the image in a file, decoded, upright and with 8 bits per channel.

    Raises:
      InputError: if it cannot be read or decoded, or is too large.
    """
    check_regular(path)
    try:
        with Image.open(path) as image:
            if image.width * image.height > fitting.MAX_PIXELS:
                raise InputError(f"{path}: {image.width} x {image.height} pixels are too many")
            image.load()
            return to_rgb(image)
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or "not an image that Pillow can read, or a damaged one"
        raise InputError(f"{path}: {reason}") from error
    except Exception as error:  # Pillow's decoders raise many types
        raise InputError(f"{path}: not an image that Pillow can read, or a damaged one") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns an image as RGB, turned as its EXIF data says and with alpha over white.

    Raises:
      InputError: if its levels have no known range.
    """
    if image.mode == "F":
        raise InputError("the levels of an image of floats have no known range")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits per pixel, which Pillow would clip to 8
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def fit(image: Image.Image | np.ndarray, shape: tuple[int, int, int], resize: int) -> np.ndarray:
    """Returns the pixels [H, W, C] that a network of this shape takes of an image.

    Args:
      image: a Pillow image, or an array [H, W, C] or [H, W], uint8 or floats from 0 to 1.
      shape: height, width, which is the same, and channels, 1 or 3.
      resize: length in pixels that the shorter side is resized to before the centre is cropped.

    Returns:
      uint8, or float32 from 0 to 255 for floats.

    Raises:
      InputError: if it is no image.
    """
    size, _, channels = shape
    if isinstance(image, Image.Image):
        image = np.asarray(to_rgb(image))
    pixels = _checked(np.asarray(image))
    if pixels.shape[:2] != (size, size):
        pixels = _resized(pixels, size, resize)
    if pixels.dtype == np.uint8:
        return fitting.convert(pixels[None], channels)[0]
    return _convert_floats(pixels, channels)


def _checked(pixels: np.ndarray) -> np.ndarray:
    """An array [H, W, C] of 1 or 3 channels, uint8 or float32 from 0 to 255."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or 0 in pixels.shape:
        raise InputError(
            f"an array of shape {pixels.shape}: an image must be [H, W, C] with C = 1 or 3, or "
            "[H, W], and several images [N, H, W, C]"
        )
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise InputError(f"an image of {pixels.dtype}: must be uint8, or floats from 0 to 1")
    low, high = pixels.min(), pixels.max()
    if not 0 <= low <= high <= 1:
        raise InputError(
            f"an image of {pixels.dtype} from {low:g} to {high:g}: floats must be from 0 to 1"
        )
    return np.float32(255) * pixels.astype(np.float32)


def _resized(pixels: np.ndarray, size: int, resize: int) -> np.ndarray:
    channels = [Image.fromarray(pixels[..., channel]) for channel in range(pixels.shape[-1])]
    try:
        fitted = [np.asarray(fitting.fit(channel, size, resize)) for channel in channels]
    except ValueError as error:
        raise InputError(f"an image of {pixels.shape[1]} x {pixels.shape[0]}: {error}") from error
    return np.stack(fitted, axis=-1)


def _convert_floats(pixels: np.ndarray, channels: int) -> np.ndarray:
    """As `fitting.convert`, for float32 [H, W, C]."""
    if channels == pixels.shape[-1]:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    return pixels @ np.array([[0.299], [0.587], [0.114]], np.float32)
