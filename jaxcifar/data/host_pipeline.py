"""Batches of a split in memory, made on the host: tf.data for training, NumPy for evaluation.

Each training batch is a function of (seed, step) alone. Training runs through an endless sequence
of positions: epoch e is a permutation of the N training images at positions e * N to
(e + 1) * N - 1, and the batch of step s takes the B positions from s * B on. So every image comes
once per epoch, no batch is short, and a run that starts at any step sees what an uninterrupted one
would see.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from jaxcifar.data.split import Batch, Split
from jaxcifar.data.streams import random_words, shuffled, stream_key
from jaxcifar.environment import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf


def train_batches(
    split: Split,
    augment: ConfigDict,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    num_steps: int,
    process: int = 0,
    num_processes: int = 1,
) -> Iterator[Batch]:
    """Yields this process's share of the training batches of steps first_step to num_steps - 1.

    Args:
      split: the training images.
      augment: the config's `augment` section.
      batch_size: size of the global batch, B; a multiple of the number of processes.
      seed: the run's seed, which the order and the augmentation are drawn from.
      first_step: number of steps already trained.
      num_steps: total number of steps.
      process: index of this process, p.
      num_processes: number of processes, P. Process p yields slots p * B / P to
        (p + 1) * B / P - 1 of each batch; the batch itself is the same for any P.
    """
    tf = import_tensorflow()
    share = batch_size // num_processes
    images, labels = tf.constant(split.images), tf.constant(split.labels)
    order_key, augment_key = stream_key(seed, "order"), stream_key(seed, "augment")

    @tf.autograph.experimental.do_not_convert  # conversion writes temporary files
    def make_batch(step: tf.Tensor) -> dict[str, tf.Tensor]:
        positions = step * batch_size + process * share + tf.range(share, dtype=tf.int64)
        index = shuffled(positions, split.size, order_key)
        random = random_words(positions, augment_key)
        return {
            "image": _crop_and_flip(tf.gather(images, index), random, augment),
            "label": tf.gather(labels, index),
            "mask": tf.ones([share], tf.bool),
        }

    dataset = tf.data.Dataset.range(first_step, num_steps)
    dataset = dataset.map(make_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def _crop_and_flip(images: "tf.Tensor", random: "tf.Tensor", augment: ConfigDict) -> "tf.Tensor":
    """Pads images, crops them back to their size, and mirrors them.

    Args:
      images: [B, H, W, C].
      random: random words, uint32 [B, 4].
      augment: the config's `augment` section.
    """
    tf = import_tensorflow()
    padding = augment.crop_padding
    height, width = images.shape[1:3]
    offsets = tf.cast(random[:, :2] % (2 * padding + 1), tf.int32)
    rows = offsets[:, :1] + tf.range(height)
    columns = offsets[:, 1:] + tf.range(width)
    if augment.horizontal_flip:
        columns = tf.where(random[:, 2:3] % 2 == 1, tf.reverse(columns, [1]), columns)
    mode = "REFLECT" if augment.crop_padding_mode == "reflect" else "CONSTANT"
    images = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]], mode)
    images = tf.gather(images, rows, axis=1, batch_dims=1)
    return tf.gather(images, columns, axis=2, batch_dims=1)


def eval_batches(
    split: Split, *, batch_size: int, process: int = 0, num_processes: int = 1
) -> Iterator[Batch]:
    """Yields this process's share of the batches that hold every example of `split` once.

    The last batch is filled up with copies of the first example, whose mask is False. All processes
    yield the same number of batches, of batch_size / num_processes examples.

    Args:
      split: the images.
      batch_size, process, num_processes: as in `train_batches`.
    """
    share = batch_size // num_processes
    for start in range(process * share, split.size + process * share, batch_size):
        index = np.arange(start, start + share)
        mask = index < split.size
        index = np.where(mask, index, 0)
        yield {"image": split.images[index], "label": split.labels[index], "mask": mask}
