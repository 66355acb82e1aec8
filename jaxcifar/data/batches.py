"""Batches made on the host by tf.data, for data sets in memory and folders of images."""

from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from jaxcifar.data import fitting, folder_pipeline, host_pipeline
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.data.own_data import FOLDER_IMAGE_SIZE
from jaxcifar.data.split import Batch, Split


def train_batches(
    split: Split | FolderSplit, config: ConfigDict, *, first_step: int, num_steps: int
) -> Iterator[Batch]:
    """Yields this process's share of the training batches of steps first_step to num_steps - 1.

    Args:
      split: the training images.
      config: a whole config, see `config.default`.
      first_step: number of steps already trained.
      num_steps: total number of steps.
    """
    common = {
        "batch_size": config.train.batch_size,
        "seed": config.train.seed,
        "first_step": first_step,
        "num_steps": num_steps,
        "process": jax.process_index(),
        "num_processes": jax.process_count(),
    }
    if isinstance(split, FolderSplit):
        batches = folder_pipeline.train_batches(
            split,
            **common,
            image_size=config.dataset.image_size or FOLDER_IMAGE_SIZE,
            horizontal_flip=config.augment.horizontal_flip,
            area=(config.augment.crop_area, 1.0),
            on_bad_image=config.dataset.on_bad_image,
            max_bad_images=config.dataset.max_bad_images,
            exif_orientation=config.dataset.exif_orientation,
        )
        return _with_channels(batches, config.dataset.channels)
    return host_pipeline.train_batches(split, config.augment, **common)


def eval_batches(
    split: Split | FolderSplit, config: ConfigDict, *, batch_size: int
) -> Iterator[Batch]:
    """Yields this process's share of the batches that hold every example of `split` once.

    Args:
      split: the images.
      config: a whole config, see `config.default`.
      batch_size: size of the global batch; a multiple of the number of devices.
    """
    common = {
        "batch_size": batch_size,
        "process": jax.process_index(),
        "num_processes": jax.process_count(),
    }
    if isinstance(split, FolderSplit):
        batches = folder_pipeline.eval_batches(
            split,
            **common,
            image_size=config.dataset.image_size or FOLDER_IMAGE_SIZE,
            on_bad_image=config.dataset.on_bad_image,
            max_bad_images=config.dataset.max_bad_images,
            exif_orientation=config.dataset.exif_orientation,
        )
        return _with_channels(batches, config.dataset.channels)
    return host_pipeline.eval_batches(split, **common)


def _with_channels(batches: Iterator[Batch], channels: int) -> Iterator[Batch]:
    for batch in batches:
        yield batch | {"image": fitting.convert(batch["image"], channels)}
