"""Every random stream of a run: order, augmentation, dropout.

Each use of the run's seed ("order", "crop", "augment", "dropout", ...) has a stream of its own, and
a draw depends on nothing but the seed, the use and the position in training. So switching a
technique on or off changes no draw of any other, and a resumed run continues with the same draws.

`stream` and `step_key` are for draws made by JAX; parameters are initialised from the seed's
own key. `stream_key`, `shuffled` and `random_words` are for the tf.data pipelines, which draw by
position: epoch e of N examples is a permutation of them at positions e * N to (e + 1) * N - 1.
"""

import zlib
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxcifar.environment import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf


def stream(seed: int | jax.Array, use: str) -> jax.Array:
    """Returns the key of one of a seed's streams; each `use` has a key of its own."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(use.encode()))


def step_key(seed: int | jax.Array, step: jax.Array, use: str) -> jax.Array:
    """Returns the key of one step in a seed's stream, the same on all devices."""
    return jax.random.fold_in(stream(seed, use), step)


def stream_key(seed: int, use: str) -> int:
    """Returns the 64-bit key of one of a seed's streams of random words, for tf.data."""
    # SeedSequence makes the keys of different uses independent of each other.
    words = np.random.SeedSequence([seed, zlib.crc32(use.encode())]).generate_state(1, np.uint64)
    return int(words[0])


def shuffled(positions: "tf.Tensor", size: int, key: int) -> "tf.Tensor":
    """Returns the example at each position, int64 [B], of an endless sequence of permutations.

    Args:
      positions: int64 [B].
      size: number of examples.
      key: see `stream_key`.
    """
    tf = import_tensorflow()
    epoch = tf.cast(positions // size, tf.uint64)
    key = tf.fill(tf.shape(epoch), tf.constant(key, tf.uint64))
    # tf.random.experimental.index_shuffle takes one seed for all, but a batch may span epochs.
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % size,
        seed=tf.stack([key, epoch, tf.zeros_like(key)], axis=1),
        max_index=tf.constant(size - 1, tf.int64),
        rounds=4,
    )


def random_words(positions: "tf.Tensor", key: int) -> "tf.Tensor":
    """Returns four random words per position, uint32 [B, 4], which do not depend on the batch.

    Args:
      positions: int64 [B], consecutive.
      key: see `stream_key`.
    """
    tf = import_tensorflow()
    # Philox counts in steps of four words: row i has the words that a batch starting at position i
    # would have first.
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.stack([tf.size(positions), 4]),
        key=tf.constant([key], tf.uint64),
        counter=tf.stack([tf.cast(positions[0], tf.uint64), tf.constant(0, tf.uint64)]),
        alg=1,  # Philox
        dtype=tf.uint32,
    )
