"""What is random about a training position, for pipelines by tf.data.

Training runs through an endless row of positions: epoch e of N examples is a permutation of them at
positions e * N to (e + 1) * N - 1. Which example that is, and the random words that augment it,
follow from the seed and the position alone.
"""

import zlib

import numpy as np

from jaxcifar.environment import import_tensorflow

Batch = dict[str, np.ndarray]


def shuffled(positions, size: int, key: int):
    """Returns the example at each position, from int64 [B] to int64 [B]."""
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


def random_words(positions, key: int):
    """Returns four random words for each of a row of positions, uint32 [B, 4], in any batch."""
    tf = import_tensorflow()
    # Philox counts in steps of four words: row i is what a row that starts at position i has first.
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.stack([tf.size(positions), 4]),
        key=tf.constant([key], tf.uint64),
        counter=tf.stack([tf.cast(positions[0], tf.uint64), tf.constant(0, tf.uint64)]),
        alg=1,  # Philox
        dtype=tf.uint32,
    )


def stream_key(seed: int, stream: str) -> int:
    """Returns the key of one of a seed's streams of random words."""
    # One 64-bit key a stream, so that they are independent of each other.
    words = np.random.SeedSequence([seed, zlib.crc32(stream.encode())]).generate_state(1, np.uint64)
    return int(words[0])
