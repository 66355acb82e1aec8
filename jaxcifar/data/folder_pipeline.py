"""Batches of images from a folder, decoded and cropped by tf.data.

Images are decoded as they are needed, and only the part that is needed; otherwise batches keep the
contract of `host_pipeline`. An image that cannot be decoded is an error; or else it is skipped, and
a warning names the file once. In evaluation the slot of a skipped image is black, with mask False.
In training it shows another image, because a black one would enter the batch statistics: the image
half an epoch further on in the same epoch's order, or the next one that can be decoded. So it
depends on the seed and the position alone. `replaced` in the batch marks such slots.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import logging

from jaxcifar import errors
from jaxcifar.data import bad_images, fitting
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


_MAX_ATTEMPTS = 100  # other images that are tried for a slot


class _Drawn(NamedTuple):
    """An image for a position, and how it is shown.

    Attributes:
      index: index of the image, int64 []; -1 for padding.
      choose_view: chooses the part of the image that is shown.
      mirrored: whether the image is mirrored, bool [].
    """

    index: "tf.Tensor"
    choose_view: ChooseView
    mirrored: "tf.Tensor"


# (position, attempt), int64 [] each -> the image; attempts above 0 are for those before them that
# cannot be decoded.
_Draw = Callable[["tf.Tensor", "tf.Tensor"], _Drawn]


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
    max_bad_images: float = 1.0,
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
      on_bad_image: "error" or "skip"; with the latter the batches also have `replaced`, bool [B].
      max_bad_images: largest share of the split's images that may be skipped.
      exif_orientation: whether images are turned as their EXIF data says.

    Raises:
      InputError: at the batch with a file that cannot be read, or that cannot be decoded and is not
        skipped; or when too many are skipped, or no image can be found in place of one.
    """
    tf = import_tensorflow()
    order_key, augment_key = stream_key(seed, "order"), stream_key(seed, "augment")

    def draw(position: tf.Tensor, attempt: tf.Tensor) -> _Drawn:
        place = position % split.size
        other = (place + split.size // 2 + attempt - 1) % split.size
        shown = position - place + tf.where(attempt > 0, other, place)
        index = shuffled(shown[None], split.size, order_key)[0]
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
    replaces = on_bad_image == "skip"
    attempts = 1 + (min(split.size, _MAX_ATTEMPTS) if replaces else 0)
    batches = _batches(split, draw, image_size, slots, steps, attempts, exif_orientation)
    return _checked(batches, split, on_bad_image, max_bad_images, replaces=replaces)


def eval_batches(
    split: FolderSplit,
    *,
    image_size: int,
    batch_size: int,
    resize: int | None = None,
    process: int = 0,
    num_processes: int = 1,
    on_bad_image: str = "error",
    max_bad_images: float = 1.0,
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
      on_bad_image, max_bad_images, exif_orientation: as in `train_batches`.

    Raises:
      InputError: as `train_batches`; or if `resize` is too small.
    """
    resize = fitting.evaluation_resize(image_size) if resize is None else resize
    if resize < image_size:
        raise InputError(f"resize = {resize} is below image_size = {image_size}")

    def choose_view(height: "tf.Tensor", width: "tf.Tensor") -> View:
        return centre_view(height, width, resize, image_size)

    slots = _Slots(batch_size, process, num_processes)
    num_batches = -(-split.size // batch_size)
    draw, steps = _in_order(split, choose_view), range(num_batches)
    batches = _batches(split, draw, image_size, slots, steps, 1, exif_orientation)
    return _checked(batches, split, on_bad_image, max_bad_images)


def find_bad_images(
    split: FolderSplit, *, image_size: int, seconds: float, whole: bool
) -> tuple[list[int], int]:
    """Decodes the images of a split in order, to find those that cannot be decoded.

    Args:
      split: the images.
      image_size: height and width of the result, which is not used, in pixels.
      seconds: time after which no further batch is decoded; at least one is.
      whole: whether whole images are decoded, any part of which may be a crop in training, rather
        than the part that evaluation needs.

    Returns:
      The indices of the images that cannot be decoded, and the number of images looked at.
    """
    tf = import_tensorflow()

    def choose_view(height: tf.Tensor, width: tf.Tensor) -> View:
        if not whole:
            return centre_view(height, width, round(image_size * 256 / 224), image_size)
        scale = image_size / tf.stack([height, width])
        return View((tf.constant(0), tf.constant(0), height, width), scale, tf.zeros_like(scale))

    slots = _Slots(min(split.size, 32), 0, 1)
    steps = range(-(-split.size // slots.batch_size))
    draw = _in_order(split, choose_view)
    bad: list[int] = []
    looked, start = 0, time.monotonic()
    for batch in _batches(split, draw, image_size, slots, steps, 1, exif_orientation=False):
        bad += batch["index"][(batch["index"] >= 0) & ~batch["mask"]].tolist()
        looked += int(np.sum(batch["index"] >= 0))
        if time.monotonic() - start > seconds:
            break
    return bad, looked


def _in_order(split: FolderSplit, choose_view: ChooseView) -> _Draw:
    """Draws every image once, in the order of the split, and padding after the last."""
    tf = import_tensorflow()

    def draw(position: tf.Tensor, attempt: tf.Tensor) -> _Drawn:
        index = tf.where(position < split.size, position, -1)
        return _Drawn(index, choose_view, tf.constant(False))

    return draw


def _batches(
    split: FolderSplit,
    draw: _Draw,
    image_size: int,
    slots: _Slots,
    steps: range,
    attempts: int,
    exif_orientation: bool,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches of these steps.

    They also have `index`, int64 [B], that of the first image drawn for the slot, and `shown`, that
    of the image in the slot: the first of `attempts` drawn that can be decoded, or -1.
    """
    tf = import_tensorflow()
    share = slots.batch_size // slots.num_processes
    first_slot = slots.process * share
    paths = tf.constant([os.fsencode(split.path(index)) for index in range(split.size)])
    labels = tf.constant(split.labels)
    black = tf.zeros([image_size, image_size, 3], tf.uint8)
    none = tf.constant(-1, tf.int64)

    @tf.autograph.experimental.do_not_convert  # conversion writes temporary files
    def make_example(number: tf.Tensor) -> dict[str, tf.Tensor]:
        position = number // share * slots.batch_size + first_slot + number % share

        def show(attempt: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            index, choose_view, mirrored = draw(position, attempt)
            image = read_image(paths[index], choose_view, image_size, exif_orientation)
            return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image), index

        index = draw(position, tf.constant(0, tf.int64)).index
        found = tf.data.Dataset.range(tf.where(index >= 0, tf.constant(attempts, tf.int64), 0))
        # An error in a map ends the iteration; here it only leaves out the one element.
        found = found.map(show).ignore_errors()
        found = found.concatenate(tf.data.Dataset.from_tensors((black, none))).take(1)
        image, shown = found.get_single_element()
        label = labels[tf.maximum(tf.where(shown >= 0, shown, index), 0)]
        return {"image": image, "label": label, "mask": shown >= 0, "index": index, "shown": shown}

    dataset = tf.data.Dataset.range(steps.start * share, steps.stop * share)
    dataset = dataset.map(make_example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(share, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    return dataset.as_numpy_iterator()


def _checked(
    batches: Iterator[dict[str, np.ndarray]],
    split: FolderSplit,
    on_bad_image: str,
    max_bad_images: float,
    *,
    replaces: bool = False,
) -> Iterator[Batch]:
    """Returns the batches without `index` and `shown`; bad images raise or are warned about once.

    Args:
      batches: see `_batches`.
      split: the images.
      on_bad_image, max_bad_images: see `train_batches`.
      replaces: whether other images are shown in place of bad ones, marked in `replaced`.
    """
    if on_bad_image not in ("error", "skip"):
        raise errors.unknown("on_bad_image", on_bad_image, ("error", "skip"))

    def check() -> Iterator[Batch]:
        skipped: dict[int, str] = {}
        read = np.zeros(split.size, bool)
        for batch in batches:
            index, shown = batch.pop("index"), batch.pop("shown")
            read[index[index >= 0]] = True
            for bad in index[(index >= 0) & (shown != index)].tolist():
                path = split.path(bad)
                bad_images.check_image(path, on_bad_image)
                if bad not in skipped:
                    logging.warning("%s cannot be decoded: skipped", path)
                skipped[bad] = path
            bad_images.check_share(
                split.root, skipped.values(), int(read.sum()), split.size, max_bad_images
            )
            if replaces:
                batch["replaced"] = shown != index
                bad_images.check_found(split.root, shown, skipped.values())
            yield batch

    return check()
