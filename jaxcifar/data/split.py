"""The types that every data set and pipeline share, and how a split is divided."""

import dataclasses
import hashlib
from typing import NamedTuple

import jax
import numpy as np

from jaxcifar.errors import InputError

# {"image": uint8 [B, H, W, C], "label": int32 [B], "mask": bool [B]}. Where the mask is False the
# slot holds no example: it is padding, or an image that cannot be decoded. Training batches from a
# folder whose bad images are skipped also have "replaced": bool [B], see `folder_pipeline`.
Batch = dict[str, np.ndarray | jax.Array]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Facts about a data set that are known before it is loaded.

    Attributes:
      name: `dataset.name` in a config.
      image_shape: height, width and channels.
      num_classes: number of classes.
      train_size: number of training images, before a validation split is held out.
      test_size: number of test images.
      mean: mean of each channel over all training pixels, on the scale from 0 to 1.
      std: standard deviation of each channel over all training pixels, on the same scale. This is
        not the mean of the deviations of single images, (0.2023, 0.1994, 0.2010) for CIFAR-10,
        that many public repositories use.
      is_measured: whether mean and deviation were computed from the images that are trained on,
        rather than known before or set by the config.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    train_size: int
    test_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_measured: bool = False


class Split(NamedTuple):
    """A split that is held in memory.

    Attributes:
      images: uint8 [N, H, W, C].
      labels: int32 [N].
      on_device: whether batches are made by `device_pipeline`, from a copy on every device, rather
        than by `host_pipeline`.
    """

    images: np.ndarray
    labels: np.ndarray
    on_device: bool = False

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.labels)

    def fingerprint(self) -> str:
        """A SHA-256 over shapes, images and labels, in hexadecimal."""
        digest = hashlib.sha256()
        for array in (self.images, self.labels):
            digest.update(f"{array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


class Loaded(NamedTuple):
    """A data set as its source has it, in memory.

    Attributes:
      train: training images, before a validation split is held out.
      test: test images; None if the source has none.
      class_names: the names of the classes, in the order of the labels.
    """

    train: Split
    test: Split | None
    class_names: tuple[str, ...]


def hold_out(
    split: Split, size: int, seed: int, field: str = "dataset.validation_size"
) -> tuple[Split, Split]:
    """Divides a split in two, stratified by class; the second part has `size` examples.

    Each class's share of the second part is rounded by largest remainder, but at least one example
    per class stays in the first. Both parts keep the order of the whole.

    Args:
      split: the split to divide.
      size: number of examples of the second part.
      seed: seed that selects them.
      field: field of the config that sets `size`, for the error message.

    Raises:
      InputError: if there are too few examples for that.
    """
    # NumPy promises that RandomState's streams never change.
    order = np.random.RandomState(seed).permutation(split.size)
    counts = np.bincount(split.labels)
    shares = counts * size / split.size
    limits = np.maximum(counts - 1, 0)
    if size > limits.sum():
        raise InputError(
            f"{field} = {size}: must be at most {limits.sum()} of the "
            f"{split.size} training images, as at least one per class must remain"
        )
    quotas = np.minimum(np.floor(shares).astype(int), limits)
    while missing := size - quotas.sum():
        largest_remainders = np.argsort(quotas - shares, kind="stable")
        quotas[[c for c in largest_remainders if quotas[c] < limits[c]][:missing]] += 1

    held_out = np.zeros(split.size, bool)
    for label, quota in enumerate(quotas):
        held_out[order[split.labels[order] == label][:quota]] = True
    first, second = (
        split._replace(images=split.images[mask], labels=split.labels[mask])
        for mask in (~held_out, held_out)
    )
    return first, second
