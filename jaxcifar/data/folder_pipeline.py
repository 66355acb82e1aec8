"""Batches of images from a folder, decoded and cropped by tf.data.

Images are decoded as they are needed, and only the part that is needed; otherwise batches keep the
contract of `host_pipeline`. An image that cannot be decoded is an error, or its slot is black and
has mask False, and a warning names the file once. Training skipped as many images as there are
slots with mask False; evaluation skipped `split.size` minus the number of slots with mask True.

A file is decoded only as far as its crop reaches, so a truncated one is noticed only when a crop
needs the missing part. EXIF orientation is not applied; the usual ImageNet pipelines ignore it too.
"""

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import logging

from jaxcifar import errors
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.data.split import Batch
from jaxcifar.data.streams import random_words, shuffled, stream_key
from jaxcifar.environment import import_tensorflow
from jaxcifar.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

_MAX_PIXELS = 2**27  # limit on what is decoded: a damaged header may hold any size
_ATTEMPTS = 10
_ASPECT_RATIO = (3 / 4, 4 / 3)


class _View(NamedTuple):
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
_ChooseView = Callable[["tf.Tensor", "tf.Tensor"], _View]


class _Drawn(NamedTuple):
    """What is shown at a position.

    Attributes:
      index: index of the image, int64 []; -1 for padding.
      choose_view: the part of it that is shown.
      mirrored: whether it is mirrored, bool [].
    """

    index: "tf.Tensor"
    choose_view: _ChooseView
    mirrored: "tf.Tensor"


class _Slots(NamedTuple):
    """The slots of a global batch that a process fills.

    Attributes:
      batch_size: size of the global batch.
      process: index of the process.
      num_processes: number of processes.
    """

    batch_size: int
    process: int
    num_processes: int


def train_batches(
    split: FolderSplit,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    first_step: int,
    num_steps: int,
    process: int = 0,
    num_processes: int = 1,
    horizontal_flip: bool = True,
    area: tuple[float, float] = (0.08, 1.0),
    on_bad_image: str = "error",
) -> Iterator[Batch]:
    """Yields this process's share of the training batches of steps first_step to num_steps - 1.

    Each image is a random crop, resized, and mirrored at random: Szegedy et al., "Going deeper with
    convolutions" (2015), section 6, with the distribution of torchvision's RandomResizedCrop.

    Args:
      split: the training images.
      image_size: height and width of the result, in pixels.
      batch_size, seed, first_step, num_steps, process, num_processes: as in `host_pipeline`.
      horizontal_flip: whether half of the images are mirrored.
      area: range of the crop's area, as a share of the image's.
      on_bad_image: "error" or "skip".

    Raises:
      InputError: at the batch with a file that cannot be read, or that cannot be decoded and is not
        skipped.
    """
    tf = import_tensorflow()
    order_key, augment_key = stream_key(seed, "order"), stream_key(seed, "augment")

    def draw(position: tf.Tensor) -> _Drawn:
        index = shuffled(position[None], split.size, order_key)[0]
        # One row of four words for each attempt, and one for the mirroring.
        rows = _ATTEMPTS + 1
        random = random_words(position * rows + tf.range(rows, dtype=tf.int64), augment_key)

        def choose_view(height: tf.Tensor, width: tf.Tensor) -> _View:
            window = _random_window(height, width, random, area)
            scale = image_size / tf.stack(window[2:])
            return _View(window, scale, tf.zeros_like(scale))

        return _Drawn(index, choose_view, horizontal_flip & (random[-1, 0] % 2 == 1))

    slots = _Slots(batch_size, process, num_processes)
    return _batches(split, draw, image_size, slots, first_step, num_steps, on_bad_image)


def eval_batches(
    split: FolderSplit,
    *,
    image_size: int,
    batch_size: int,
    resize: int | None = None,
    process: int = 0,
    num_processes: int = 1,
    on_bad_image: str = "error",
) -> Iterator[Batch]:
    """Yields this process's share of the batches that hold every example of `split` once.

    Each image is resized so that its shorter side is `resize`, and its centre is cropped:
    Krizhevsky et al., "ImageNet classification with deep convolutional neural networks" (2012),
    section 2, rounded as in torchvision's Resize and CenterCrop.

    The last batch is filled up with black images, whose mask is False. All processes yield the same
    number of batches, of batch_size / num_processes examples.

    Args:
      split: the images.
      image_size: height and width of the result, in pixels.
      batch_size, process, num_processes: as in `host_pipeline`.
      resize: length of the resized shorter side in pixels, at least image_size; 256 / 224 of
        image_size if None.
      on_bad_image: "error" or "skip".

    Raises:
      InputError: as `train_batches`; or if `resize` is too small.
    """
    resize = round(image_size * 256 / 224) if resize is None else resize
    if resize < image_size:
        raise InputError(f"resize = {resize} is below image_size = {image_size}")
    tf = import_tensorflow()

    def choose_view(height: tf.Tensor, width: tf.Tensor) -> _View:
        return _centre_view(height, width, resize, image_size)

    def draw(position: tf.Tensor) -> _Drawn:
        index = tf.where(position < split.size, position, -1)
        return _Drawn(index, choose_view, tf.constant(False))

    slots = _Slots(batch_size, process, num_processes)
    num_batches = -(-split.size // batch_size)
    return _batches(split, draw, image_size, slots, 0, num_batches, on_bad_image)


def _batches(
    split: FolderSplit,
    draw: Callable[["tf.Tensor"], _Drawn],
    image_size: int,
    slots: _Slots,
    first_step: int,
    num_steps: int,
    on_bad_image: str,
) -> Iterator[Batch]:
    """Yields the batches of steps first_step to num_steps - 1; `draw` maps a position, int64 []."""
    if on_bad_image not in ("error", "skip"):
        raise errors.unknown("on_bad_image", on_bad_image, ("error", "skip"))
    tf = import_tensorflow()
    share = slots.batch_size // slots.num_processes
    first_slot = slots.process * share
    paths = tf.constant([os.fsencode(split.path(index)) for index in range(split.size)])
    labels = tf.constant(split.labels)
    black = tf.zeros([image_size, image_size, 3], tf.uint8)

    def make_example(number: tf.Tensor) -> dict[str, tf.Tensor]:
        position = number // share * slots.batch_size + first_slot + number % share
        index, choose_view, mirrored = draw(position)
        exists, source = index >= 0, tf.maximum(index, 0)
        found = tf.data.Dataset.from_tensors(paths[source]).take(tf.cast(exists, tf.int64))
        # An error in a map ends the iteration; here it only leaves out the one element.
        found = found.map(lambda path: (_read(path, choose_view, image_size), True))
        found = found.ignore_errors()
        found = found.concatenate(tf.data.Dataset.from_tensors((black, False))).take(1)
        image, decoded = found.get_single_element()
        image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
        return {"image": image, "label": labels[source], "mask": decoded, "index": index}

    dataset = tf.data.Dataset.range(first_step * share, num_steps * share)
    dataset = dataset.map(make_example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(share, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    return _checked(dataset.as_numpy_iterator(), split, on_bad_image)


def _checked(
    batches: Iterator[dict[str, np.ndarray]], split: FolderSplit, on_bad_image: str
) -> Iterator[Batch]:
    """Yields batches without their `index`; images not decoded raise, or are warned of once."""
    skipped = set()
    for batch in batches:
        indices = batch.pop("index")
        for index in indices[(indices >= 0) & ~batch["mask"]]:
            _check_bad_image(split.path(index), on_bad_image)
            if index not in skipped:
                logging.warning("%s cannot be decoded: skipped", split.path(index))
            skipped.add(index)
        yield batch


def _check_bad_image(path: str, on_bad_image: str) -> None:
    try:
        open(path, "rb").close()
    except OSError as error:
        # Never skipped: storage that is no longer reachable is not a set of corrupt images.
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if on_bad_image == "error":
        raise InputError(
            f"{path} cannot be decoded: it is empty, truncated, huge, or not a JPEG or PNG; "
            f'replace it, or skip such images with dataset.on_bad_image="skip"'
        )


def _read(path: "tf.Tensor", choose_view: _ChooseView, image_size: int) -> "tf.Tensor":
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
    # Antialiased, as Pillow resizes: point samples alias, and the more so the larger the image.
    image = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=[image_size, image_size],
        scale=tf.cast(scale, tf.float32),
        translation=tf.cast(shift, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )[0]
    return tf.saturate_cast(tf.round(image), tf.uint8)


def _random_window(
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
    uniform = tf.cast(random[:_ATTEMPTS, :2], tf.float64) / 2**32
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


def _centre_view(height: "tf.Tensor", width: "tf.Tensor", resize: int, image_size: int) -> _View:
    """Returns the view that resizes the shorter side to `resize` and crops the centre."""
    tf = import_tensorflow()
    sides = tf.stack([height, width])
    resized = resize * sides // tf.minimum(height, width)
    scale = resized / sides
    offset = tf.round((resized - image_size) / 2)
    # The source of the crop, and as far as the triangle kernel reaches beyond it.
    reach = tf.maximum(1 / scale, 1.0)
    first = tf.maximum(tf.cast(tf.floor(offset / scale - reach), tf.int32), 0)
    last = tf.cast(tf.math.ceil((offset + image_size) / scale + reach), tf.int32)
    last = tf.minimum(last, sides)
    shift = tf.cast(first, tf.float64) * scale - offset
    return _View((*tf.unstack(first), *tf.unstack(last - first)), scale, shift)
