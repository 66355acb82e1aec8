"""Decodes, crops and resizes one image with TensorFlow or Pillow, for `folder_pipeline`.

A JPEG is decoded only as far as its crop reaches, so a truncated one is noticed only when a crop
needs the missing part. EXIF orientation is applied only if asked for: the usual ImageNet pipelines
ignore it.
"""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from jaxcifar.data import exif
from jaxcifar.environment import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

ATTEMPTS = 10  # number of windows that `random_window` draws

_MAX_PIXELS = 2**27  # limit on what is decoded: a damaged header may hold any size
_ASPECT_RATIO = (3 / 4, 4 / 3)
_PNG = b"\x89PNG\r\n\x1a\n"

# By EXIF orientation: what makes the upright image of the stored one. First rows, then columns are
# reversed, then the two are exchanged.
_TURNS = np.array(
    [
        (False, False, False),  # no such orientation
        (False, False, False),
        (False, True, False),
        (True, True, False),
        (True, False, False),
        (False, False, True),
        (True, False, True),
        (True, True, True),
        (False, True, True),
    ]
)


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


def read_image(
    path: "tf.Tensor", choose_view: ChooseView, image_size: int, exif_orientation: bool = False
) -> "tf.Tensor":
    """Decodes and resamples the chosen view of the image in a file, to uint8 [S, S, 3].

    Args:
      path: path of the file, string [].
      choose_view: chooses the view.
      image_size: S, in pixels.
      exif_orientation: whether the image is first turned as its EXIF data says.
    """
    tf = import_tensorflow()
    image, scale, shift = decode_view(tf.io.read_file(path), choose_view, exif_orientation)
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


def decode_view(
    contents: "tf.Tensor", choose_view: ChooseView, exif_orientation: bool = False
) -> tuple["tf.Tensor", "tf.Tensor", "tf.Tensor"]:
    """Decodes the chosen view of an image: a JPEG, PNG, WebP, BMP or GIF, whatever its name is.

    Transparency is dropped, and of an animation the first image is taken.

    Args:
      contents: contents of the image's file, string [].
      choose_view: chooses the view.
      exif_orientation: whether the image is first turned as its EXIF data says.

    Returns:
      The pixels in the view's window, uint8 [H, W, 3], and the view's scale and shift.
    """
    if not exif_orientation:
        return _decode_stored_view(contents, choose_view)
    tf = import_tensorflow()
    turn = tf.gather(tf.constant(_TURNS), _in_python(exif.orientation, contents, tf.int64, []))
    mirrored, transposed = turn[:2], turn[2]

    def exchanged(pair: Sequence[tf.Tensor]) -> tf.Tensor:
        return tf.where(transposed, tf.stack([pair[1], pair[0]]), tf.stack([pair[0], pair[1]]))

    def choose_stored(height: tf.Tensor, width: tf.Tensor) -> View:
        """The view of the stored image that holds the pixels of the chosen one of the turned."""
        view = choose_view(*tf.unstack(exchanged([height, width])))
        first, size = exchanged(view.window[:2]), exchanged(view.window[2:])
        first = tf.where(mirrored, tf.stack([height, width]) - first - size, first)
        return view._replace(window=(*tf.unstack(first), *tf.unstack(size)))

    image, scale, shift = _decode_stored_view(contents, choose_stored)
    for axis in range(2):
        image = tf.cond(
            mirrored[axis], lambda i=image, a=axis: tf.reverse(i, [a]), lambda i=image: i
        )
    return tf.cond(transposed, lambda: tf.transpose(image, [1, 0, 2]), lambda: image), scale, shift


def _decode_stored_view(
    contents: "tf.Tensor", choose_view: ChooseView
) -> tuple["tf.Tensor", "tf.Tensor", "tf.Tensor"]:
    """As `decode_view`, of the image as it is stored."""
    tf = import_tensorflow()

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

    def view_of(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        sides = tf.unstack(tf.shape(image)[:2])
        (top, left, height, width), scale, shift = choose_view(*sides)
        return image[top : top + height, left : left + width], scale, shift

    def decode_png() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # The header's width and height come first.
        header = tf.io.decode_raw(tf.strings.substr(contents, 16, 8), tf.int32, little_endian=False)
        check_size(header[1], header[0])
        return view_of(tf.io.decode_png(contents, channels=3))

    def decode_other() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return view_of(_in_python(_decode_with_pillow, contents, tf.uint8, [None, None, 3]))

    # By content: a few files of ImageNet are PNGs named like JPEGs.
    is_png = tf.strings.substr(contents, 0, len(_PNG)) == _PNG
    return tf.cond(
        tf.image.is_jpeg(contents), decode_jpeg, lambda: tf.cond(is_png, decode_png, decode_other)
    )


def _in_python(
    function: Callable[[bytes], np.ndarray | int],
    contents: "tf.Tensor",
    dtype: "tf.DType",
    shape: list[int | None],
) -> "tf.Tensor":
    """Returns the array of this type and shape that a Python function makes of a string []."""
    tf = import_tensorflow()

    def call(contents: bytes | np.ndarray) -> np.ndarray:
        contents = np.asarray(contents, object).item()  # an array outside of a graph
        return np.asarray(function(contents), dtype.as_numpy_dtype)

    return tf.ensure_shape(tf.numpy_function(call, [contents], dtype, stateful=False), shape)


def _decode_with_pillow(contents: bytes) -> np.ndarray:
    """Returns a WebP, BMP or GIF as uint8 [H, W, 3].

    TensorFlow's decoders ignore the palette of a BMP, and refuse WebP animations.
    """
    Image.init()  # which loads WebP
    with Image.open(io.BytesIO(contents), formats=("WEBP", "BMP", "GIF")) as image:
        if image.width * image.height > _MAX_PIXELS:
            raise ValueError(f"the image has {image.width} x {image.height} pixels")
        return np.asarray(image.convert("RGB"))


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
