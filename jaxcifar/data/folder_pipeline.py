"""Batches of images from a folder, decoded and cropped by tf.data.

Images are decoded as they are needed, and only the part that is needed; otherwise batches keep the
contract of `host_pipeline`. An image that cannot be decoded is an error; or else its slot is black
with mask False, and a warning names the file once. The number of skipped images is that of the
slots with mask False in training, and `split.size` minus the slots with mask True in evaluation.
"""

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import logging

from jaxcifar import errors
from jaxcifar.data.image_decoding import (
    ATTEMPTS,
    ChooseView,
    View,
    centre_view,
    random_window,
    read_image,
)
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.data.split import Batch
from jaxcifar.data.streams import random_words, shuffled, stream_key
from jaxcifar.environment import import_tensorflow
from jaxcifar.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf


class _Drawn(NamedTuple):
    """The image at a position, and how it is shown.

    Attributes:
      index: index of the image, int64 []; -1 for padding.
      choose_view: chooses the part of the image that is shown.
      mirrored: whether the image is mirrored, bool [].
    """

    index: "tf.Tensor"
    choose_view: ChooseView
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
    exif_orientation: bool = False,
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
      exif_orientation: whether images are turned as their EXIF data says.

    Raises:
      InputError: at the batch with a file that cannot be read, or that cannot be decoded and is not
        skipped.
    """
    tf = import_tensorflow()
    order_key, augment_key = stream_key(seed, "order"), stream_key(seed, "augment")

    def draw(position: tf.Tensor) -> _Drawn:
        index = shuffled(position[None], split.size, order_key)[0]
        # One row of four words for each attempt, and one for the mirroring.
        rows = ATTEMPTS + 1
        random = random_words(position * rows + tf.range(rows, dtype=tf.int64), augment_key)

        def choose_view(height: tf.Tensor, width: tf.Tensor) -> View:
            window = random_window(height, width, random, area)
            scale = image_size / tf.stack(window[2:])
            return View(window, scale, tf.zeros_like(scale))

        return _Drawn(index, choose_view, horizontal_flip & (random[-1, 0] % 2 == 1))

    slots = _Slots(batch_size, process, num_processes)
    steps = range(first_step, num_steps)
    return _batches(split, draw, image_size, slots, steps, on_bad_image, exif_orientation)


def eval_batches(
    split: FolderSplit,
    *,
    image_size: int,
    batch_size: int,
    resize: int | None = None,
    process: int = 0,
    num_processes: int = 1,
    on_bad_image: str = "error",
    exif_orientation: bool = False,
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
      exif_orientation: whether images are turned as their EXIF data says.

    Raises:
      InputError: as `train_batches`; or if `resize` is too small.
    """
    resize = round(image_size * 256 / 224) if resize is None else resize
    if resize < image_size:
        raise InputError(f"resize = {resize} is below image_size = {image_size}")
    tf = import_tensorflow()

    def choose_view(height: tf.Tensor, width: tf.Tensor) -> View:
        return centre_view(height, width, resize, image_size)

    def draw(position: tf.Tensor) -> _Drawn:
        index = tf.where(position < split.size, position, -1)
        return _Drawn(index, choose_view, tf.constant(False))

    slots = _Slots(batch_size, process, num_processes)
    num_batches = -(-split.size // batch_size)
    steps = range(num_batches)
    return _batches(split, draw, image_size, slots, steps, on_bad_image, exif_orientation)


def _batches(
    split: FolderSplit,
    draw: Callable[["tf.Tensor"], _Drawn],
    image_size: int,
    slots: _Slots,
    steps: range,
    on_bad_image: str,
    exif_orientation: bool,
) -> Iterator[Batch]:
    """Yields the batches of these steps; `draw` gets a position, int64 []."""
    if on_bad_image not in ("error", "skip"):
        raise errors.unknown("on_bad_image", on_bad_image, ("error", "skip"))
    tf = import_tensorflow()
    share = slots.batch_size // slots.num_processes
    first_slot = slots.process * share
    paths = tf.constant([os.fsencode(split.path(index)) for index in range(split.size)])
    labels = tf.constant(split.labels)
    black = tf.zeros([image_size, image_size, 3], tf.uint8)

    @tf.autograph.experimental.do_not_convert  # conversion writes temporary files
    def make_example(number: tf.Tensor) -> dict[str, tf.Tensor]:
        position = number // share * slots.batch_size + first_slot + number % share
        index, choose_view, mirrored = draw(position)
        exists, source = index >= 0, tf.maximum(index, 0)
        found = tf.data.Dataset.from_tensors(paths[source]).take(tf.cast(exists, tf.int64))
        # An error in a map ends the iteration; here it only leaves out the one element.
        found = found.map(
            lambda path: (read_image(path, choose_view, image_size, exif_orientation), True)
        )
        found = found.ignore_errors()
        found = found.concatenate(tf.data.Dataset.from_tensors((black, False))).take(1)
        image, decoded = found.get_single_element()
        image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
        return {"image": image, "label": labels[source], "mask": decoded, "index": index}

    dataset = tf.data.Dataset.range(steps.start * share, steps.stop * share)
    dataset = dataset.map(make_example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(share, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    return _checked(dataset.as_numpy_iterator(), split, on_bad_image)


def _checked(
    batches: Iterator[dict[str, np.ndarray]], split: FolderSplit, on_bad_image: str
) -> Iterator[Batch]:
    """Yields batches without their `index`; an undecoded image raises or is warned about once."""
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
            f"{path} cannot be decoded: it is empty, truncated, huge, or not a JPEG, PNG, WebP, "
            "BMP or GIF; replace it, or skip such images with "
            "--config.dataset.on_bad_image=skip"
        )
