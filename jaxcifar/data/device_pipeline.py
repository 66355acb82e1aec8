"""Batches from a copy of a split on every device, made inside the compiled step.

Batches have the same form as those of `host_pipeline`, but different draws and a different order.
They follow from (seed, step) alone: epoch e of N examples is a permutation of them at positions
e * N to (e + 1) * N - 1, and the batch of step s takes the B positions from s * B on. Only
positions cross from the host. TensorFlow is not needed.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxcifar.augment import basic
from jaxcifar.data.split import Batch, Split
from jaxcifar.data.streams import stream


class Resident(NamedTuple):
    """The arrays of a split on a device: `images` uint8 [N, H, W, C] and `labels` int32 [N]."""

    images: jax.Array
    labels: jax.Array


class Position(NamedTuple):
    """A position in training, in numbers that stay within int32 however long a run is.

    Attributes:
      epoch: the first epoch whose permutation is on the device.
      first: position within that epoch of the next step's first example.
    """

    epoch: np.int32
    first: np.int32


class Order:
    """The permutations of the epochs that are being read, on one device."""

    def __init__(self, seed: int, size: int, batch_size: int, max_steps: int):
        """Prepares the permutations.

        Args:
          seed: the run's seed, which the permutations are drawn from.
          size: number of examples, N.
          batch_size: size of the global batch, B.
          max_steps: largest number of steps that are read from one position.
        """
        self._seed, self._size, self._batch_size = seed, size, batch_size
        self._rows = 1 + -(-max_steps * batch_size // size)
        self._epoch, self._order = -1, None

    def at(self, step: int) -> tuple[jax.Array, bool, Position]:
        """Returns what `train_batch` needs from `step` on.

        Returns:
          order: the examples by position, int32 [rows * N], from the start of the position's epoch.
          changed: whether the order differs from that of the last call.
          position: the position of the step.
        """
        epoch, first = divmod(step * self._batch_size, self._size)
        changed = epoch != self._epoch
        if changed:
            self._epoch = epoch
            self._order = _permutations(self._size, self._rows, np.uint32(self._seed), epoch)
        return self._order, changed, Position(np.int32(epoch), np.int32(first))


@partial(jax.jit, static_argnums=(0, 1))
def _permutations(size: int, rows: int, seed: jax.Array, epoch: jax.Array) -> jax.Array:
    keys = jax.vmap(partial(jax.random.fold_in, stream(seed, "order")))(epoch + jnp.arange(rows))
    return jax.vmap(lambda key: jax.random.permutation(key, size))(keys).reshape(-1)


def train_batch(
    split: Resident,
    order: jax.Array,
    position: Position,
    device: jax.Array,
    *,
    share: int,
    config: ConfigDict,
    seed: int | jax.Array,
) -> Batch:
    """Returns a device's share of a training batch, cropped and mirrored.

    Args:
      split: the training images.
      order: the examples by position, see `Order.at`.
      position: position of the batch's first example.
      device: index of the device among those of all processes.
      share: number of examples in the share.
      config: the config's `augment` section.
      seed: the run's seed. Crop and mirroring of an example follow from its place in its epoch.
    """
    size = len(split.labels)
    places = position.first + device * share + jnp.arange(share)
    index = order[places]
    epoch, place = position.epoch + places // size, places % size
    images = split.images[index]
    if config.crop_padding or config.horizontal_flip:
        fold = jax.vmap(jax.random.fold_in)
        keys = jax.vmap(partial(jax.random.fold_in, stream(seed, "crop")))(epoch)
        crop_keys, flip_keys = jnp.split(jax.vmap(jax.random.split)(fold(keys, place)), 2, axis=1)
        if config.crop_padding:
            images = basic.random_crop(
                crop_keys[:, 0], images, config.crop_padding, config.crop_padding_mode
            )
        if config.horizontal_flip:
            if config.alternating_flip:
                # Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds", section 3.6: every other epoch.
                first = jax.vmap(partial(jax.random.fold_in, stream(seed, "flip")))(index)
                mirrored = (jax.vmap(jax.random.bernoulli)(first) + epoch) % 2 == 1
            else:
                mirrored = jax.vmap(jax.random.bernoulli)(flip_keys[:, 0])
            images = basic.flip(images, mirrored)
    return {"image": images, "label": split.labels[index], "mask": jnp.ones(share, bool)}


def batch_of_step(split: Split, config: ConfigDict, step: int) -> Batch:
    """Returns the global training batch of one step, for inspection.

    Args:
      split: the training images.
      config: a whole config, see `config.default`.
      step: the step, from 0.
    """
    size, seed = config.train.batch_size, config.train.seed
    order, _, position = Order(seed, split.size, size, max_steps=1).at(step)
    make = jax.jit(partial(train_batch, share=size, config=config.augment, seed=seed))
    return make(as_resident(split), order, position, 0)


def eval_batch(split: Resident, number: jax.Array, device: jax.Array, *, share: int) -> Batch:
    """Returns a device's share of an evaluation batch; padding has mask False.

    Args:
      split: the images.
      number: number of the batch, from 0.
      device: index of the device among those of all processes.
      share: number of examples in the share.
    """
    index = (number * jax.device_count() + device) * share + jnp.arange(share)
    mask = index < len(split.labels)
    index = jnp.where(mask, index, 0)
    return {"image": split.images[index], "label": split.labels[index], "mask": mask}


def as_resident(split: Split) -> Resident:
    """Returns the arrays of a split that are to be copied to the devices."""
    return Resident(split.images, split.labels)
