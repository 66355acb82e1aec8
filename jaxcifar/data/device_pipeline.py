"""Batches from a split that lies on every device, made inside the compiled step.

A batch has the form of those of `batches`, in another order and by other draws. It follows from
(seed, step) alone: epoch e of N examples is a permutation of them at positions e * N to
(e + 1) * N - 1, and the batch of step s takes the B positions from s * B. Nothing but positions
crosses from the host. No TensorFlow is needed.
"""

import zlib
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from jaxcifar.augment import pipeline
from jaxcifar.data.datasets import Split

Batch = dict[str, jax.Array]


class Resident(NamedTuple):
    """A split on a device: `images` uint8 [N, H, W, C] and `labels` int32 [N]."""

    images: jax.Array
    labels: jax.Array


class Position(NamedTuple):
    """Where training is, in numbers that no run makes too large for int32.

    Attributes:
      epoch: the first of those whose permutations are at hand.
      first: the position within that epoch of the next step's first example.
    """

    epoch: np.int32
    first: np.int32


class Order:
    """The permutations of the epochs that are being read, on one device."""

    def __init__(self, seed: int, size: int, batch_size: int, max_steps: int):
        """Keeps what `at` needs.

        Args:
          seed: of the permutations.
          size: N, the number of examples.
          batch_size: B, over all devices and processes.
          max_steps: the most steps that are made from one position.
        """
        self._size, self._batch_size = size, batch_size
        self._rows = 1 + -(-max_steps * batch_size // size)
        self._permute = jax.jit(partial(_permutations, seed, size, self._rows))
        self._epoch, self._order = -1, None

    def at(self, step: int) -> tuple[jax.Array, bool, Position]:
        """Returns the examples by position, int32 [rows * N]; whether they are new; the position.

        The first is that of the position's epoch at position 0.
        """
        epoch, first = divmod(step * self._batch_size, self._size)
        changed = epoch != self._epoch
        if changed:
            self._epoch, self._order = epoch, self._permute(np.int32(epoch))
        return self._order, changed, Position(np.int32(epoch), np.int32(first))


def _permutations(seed: int, size: int, rows: int, epoch: jax.Array) -> jax.Array:
    keys = jax.vmap(partial(jax.random.fold_in, _stream(seed, "order")))(epoch + jnp.arange(rows))
    return jax.vmap(lambda key: jax.random.permutation(key, size))(keys).reshape(-1)


def _stream(seed: int, use: str) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(use.encode()))


def train_batch(
    split: Resident,
    order: jax.Array,
    position: Position,
    device: jax.Array,
    *,
    share: int,
    config: ConfigDict,
    seed: int,
) -> Batch:
    """Returns a device's share of a training batch, cropped and mirrored.

    Args:
      split: the training images.
      order: see `Order.at`.
      position: of the batch's first example.
      device: index of the device, of all processes.
      share: the number of examples.
      config: the `augment` section.
      seed: of the crops and mirrors, which follow from the example's place in its epoch.
    """
    size = len(split.labels)
    places = position.first + device * share + jnp.arange(share)
    index = order[places]
    epoch, place = position.epoch + places // size, places % size
    images = split.images[index]
    if config.crop_padding or config.horizontal_flip:
        fold = jax.vmap(jax.random.fold_in)
        keys = jax.vmap(partial(jax.random.fold_in, _stream(seed, "crop")))(epoch)
        crop_keys, flip_keys = jnp.split(jax.vmap(jax.random.split)(fold(keys, place)), 2, axis=1)
        if config.crop_padding:
            corner = partial(pipeline.crop_corner, padding=config.crop_padding)
            # Or XLA on a GPU draws it again for every pixel.
            corners = lax.optimization_barrier(jax.vmap(corner)(crop_keys[:, 0]))
            crop = partial(pipeline.crop, padding=config.crop_padding)
            images = jax.vmap(crop)(corners, images)
        if config.horizontal_flip:
            if config.alternating_flip:
                # Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds", section 3.6: every other epoch.
                first = jax.vmap(partial(jax.random.fold_in, _stream(seed, "flip")))(index)
                mirrored = (jax.vmap(jax.random.bernoulli)(first) + epoch) % 2 == 1
            else:
                mirrored = jax.vmap(jax.random.bernoulli)(flip_keys[:, 0])
            mirrored = lax.optimization_barrier(mirrored)
            images = jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    return {"image": images, "label": split.labels[index], "mask": jnp.ones(share, bool)}


def batch_of_step(split: Split, config: ConfigDict, step: int) -> Batch:
    """Returns the whole training batch of one step, to be looked at.

    Args:
      split: the training images.
      config: see `config.default`.
      step: from 0.
    """
    size, seed = config.train.batch_size, config.train.seed
    order, _, position = Order(seed, split.size, size, max_steps=1).at(step)
    make = jax.jit(partial(train_batch, share=size, config=config.augment, seed=seed))
    return make(as_resident(split), order, position, 0)


def eval_batch(split: Resident, number: jax.Array, device: jax.Array, *, share: int) -> Batch:
    """Returns a device's share of evaluation batch `number`; copies that fill it have mask False.

    Args:
      split: the images.
      number: from 0.
      device: index of the device, of all processes.
      share: the number of examples.
    """
    index = (number * jax.device_count() + device) * share + jnp.arange(share)
    mask = index < len(split.labels)
    index = jnp.where(mask, index, 0)
    return {"image": split.images[index], "label": split.labels[index], "mask": mask}


def as_resident(split: Split) -> Resident:
    """Returns the arrays that are to lie on the devices."""
    return Resident(split.images, split.labels)
