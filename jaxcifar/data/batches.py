"""Batches of any data set, by the pipeline that fits it.

A batch is {"image": uint8 [B, H, W, C], "label": int32 [B], "mask": bool [B]}; where the mask is
False there is no example.
"""

from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from jaxcifar.data import host_pipeline, image_folder
from jaxcifar.data.datasets import Split
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.data.streams import Batch


def train_batches(
    split: Split | FolderSplit, config: ConfigDict, *, first_step: int, num_steps: int
) -> Iterator[Batch]:
    """Yields this process's share of the training batches of steps first_step to num_steps - 1.

    Args:
      split: the training images.
      config: see `config.default`.
      first_step: the number of steps done before.
      num_steps: the step to end before.
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
        return image_folder.train_batches(
            split,
            **common,
            image_size=config.dataset.image_size,
            horizontal_flip=config.augment.horizontal_flip,
            area=(config.augment.crop_area, 1.0),
            on_bad_image=config.dataset.on_bad_image,
        )
    return host_pipeline.train_batches(split, config.augment, **common)


def eval_batches(
    split: Split | FolderSplit, config: ConfigDict, *, batch_size: int
) -> Iterator[Batch]:
    """Yields this process's share of the batches that hold every example of `split` once.

    Args:
      split: the images.
      config: see `config.default`.
      batch_size: over all processes; a multiple of the number of devices.
    """
    common = {
        "batch_size": batch_size,
        "process": jax.process_index(),
        "num_processes": jax.process_count(),
    }
    if isinstance(split, FolderSplit):
        return image_folder.eval_batches(
            split,
            **common,
            image_size=config.dataset.image_size,
            on_bad_image=config.dataset.on_bad_image,
        )
    return host_pipeline.eval_batches(split, **common)
