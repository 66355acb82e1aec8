"""Decodes, crops and resizes one image with TensorFlow, for `folder_pipeline`.

A file is decoded only as far as its crop reaches, so a truncated one is noticed only when a crop
needs the missing part. EXIF orientation is not applied; the usual ImageNet pipelines ignore it too.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxcifar.environment import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

ATTEMPTS = 10  # number of windows that `random_window` draws

_MAX_PIXELS = 2**27  # limit on what is decoded: a damaged header may hold any size
_ASPECT_RATIO = (3 / 4, 4 / 3)


class View(NamedTuple):
    """The part of an image to decode, and how it is resampled.

    Attributes:
      window: top, left, height and width of the part, int32 [] each.
      scale, shift: float64 [2], rows and columns: the point y of the part goes to the point
        scale * y + shift of the result.
    """

    window: tuple["tf.Tensor", "tf.Tensor", "tf.Tensor", "tf.Tensor"]
    scale: "tf.Tensor"
    shift: "tf.Tensor"


# (height, width) of an image -> its view.
ChooseView = Callable[["tf.Tensor", "tf.Tensor"], View]


def read_image(path: "tf.Tensor", choose_view: ChooseView, image_size: int) -> "tf.Tensor":
    """Decodes and resamples the chosen view of the image in a file, to uint8 [S, S, 3]."""
    tf = import_tensorflow()
    contents = tf.io.read_file(path)

    def check_size(height: tf.Tensor, width: tf.Tensor) -> None:
        pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
        tf.debugging.assert_less_equal(pixels, tf.constant(_MAX_PIXELS, tf.int64))

    def decode_jpeg() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(contents))
        check_size(height, width)
        (top, left, crop_height, crop_width), scale, shift = choose_view(height, width)
        # The decoder interpolates subsampled colour, which takes one more column on either side.
        first, last = tf.maximum(left - 1, 0), tf.minimum(left + crop_width + 1, width)
        image = tf.image.decode_and_crop_jpeg(
            contents,
            [top, first, crop_height, last - first],
            channels=3,
            dct_method="INTEGER_ACCURATE",  # as libjpeg and Pillow by default
        )
        return image[:, left - first : left - first + crop_width], scale, shift

    def decode_png() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # The header's width and height come first.
        header = tf.io.decode_raw(tf.strings.substr(contents, 16, 8), tf.int32, little_endian=False)
        check_size(header[1], header[0])
        image = tf.io.decode_png(contents, channels=3)
        sides = tf.unstack(tf.shape(image)[:2])
        (top, left, height, width), scale, shift = choose_view(*sides)
        return image[top : top + height, left : left + width], scale, shift

    # By content: a few files of ImageNet are PNGs named like JPEGs.
    image, scale, shift = tf.cond(tf.image.is_jpeg(contents), decode_jpeg, decode_png)
    # Antialiased, as in Pillow: plain point samples would alias, more so in larger images.
    image = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=[image_size, image_size],
        scale=tf.cast(scale, tf.float32),
        translation=tf.cast(shift, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )[0]
    return tf.saturate_cast(tf.round(image), tf.uint8)


def random_window(
    height: "tf.Tensor", width: "tf.Tensor", random: "tf.Tensor", area: tuple[float, float]
) -> tuple["tf.Tensor", "tf.Tensor", "tf.Tensor", "tf.Tensor"]:
    """Returns the first of ten random windows that fits, else the largest permissible centred one.

    Args:
      height, width: size of the image, int32 [].
      random: uint32 [10 or more, 4]; a row draws area, aspect ratio, top and left.
      area: range of the window's area as a share of the image's, drawn uniformly.

    Returns:
      (top, left, height, width), int32 [] each. The logarithm of width / height is drawn uniformly.
    """
    tf = import_tensorflow()
    low, high = np.log(_ASPECT_RATIO)
    uniform = tf.cast(random[:ATTEMPTS, :2], tf.float64) / 2**32
    areas = (area[0] + (area[1] - area[0]) * uniform[:, 0]) * tf.cast(height * width, tf.float64)
    ratios = tf.exp(low + (high - low) * uniform[:, 1])
    widths = tf.cast(tf.round(tf.sqrt(areas * ratios)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(areas / ratios)), tf.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    attempt = tf.argmax(fits, output_type=tf.int32)

    sides = tf.stack([height, width])
    # Neither side may be longer than 4 / 3 of the other.
    largest = tf.round(tf.cast(sides[::-1], tf.float64) * _ASPECT_RATIO[1])
    largest = tf.minimum(sides, tf.cast(largest, tf.int32))
    fit = fits[attempt]
    window = tf.where(fit, tf.stack([heights[attempt], widths[attempt]]), largest)
    free = sides - window
    offsets = tf.cast(random[attempt, 2:], tf.int64) % tf.cast(free + 1, tf.int64)
    offsets = tf.where(fit, tf.cast(offsets, tf.int32), free // 2)
    return (*tf.unstack(offsets), *tf.unstack(window))


def centre_view(height: "tf.Tensor", width: "tf.Tensor", resize: int, image_size: int) -> View:
    """Returns the view that resizes the shorter side to `resize` and crops the centre."""
    tf = import_tensorflow()
    sides = tf.stack([height, width])
    resized = resize * sides // tf.minimum(height, width)
    scale = resized / sides
    offset = tf.round((resized - image_size) / 2)
    # The source of the crop, widened by the reach of the triangle kernel.
    reach = tf.maximum(1 / scale, 1.0)
    first = tf.maximum(tf.cast(tf.floor(offset / scale - reach), tf.int32), 0)
    last = tf.cast(tf.math.ceil((offset + image_size) / scale + reach), tf.int32)
    last = tf.minimum(last, sides)
    shift = tf.cast(first, tf.float64) * scale - offset
    return View((*tf.unstack(first), *tf.unstack(last - first)), scale, shift)
