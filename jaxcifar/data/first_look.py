"""Looks for images that cannot be decoded before a run trains on a folder."""

import time
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from jaxcifar.data import bad_images
from jaxcifar.data.folder_pipeline import find_bad_images
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.data.own_data import FOLDER_IMAGE_SIZE
from jaxcifar.data.split import Split
from jaxcifar.environment import import_tensorflow


def look_through(splits: Mapping[str, Split | FolderSplit], dataset: ConfigDict) -> str:
    """Decodes the images of a folder, as many as `dataset.check_seconds` allows.

    First those for evaluation, which would otherwise be read after an epoch of training only, then
    the training images.

    Args:
      splits: splits of the data set by name.
      dataset: the config's `dataset` section.

    Returns:
      A line about what was looked at and how long it took; "" if nothing was.

    Raises:
      InputError: if a file cannot be read, or cannot be decoded and may not be skipped, or too many
        cannot be decoded.
    """
    if not dataset.check_seconds or dataset.name != "image_folder":
        return ""
    import_tensorflow()  # before the clock starts
    start, parts = time.monotonic(), []
    for name, split in sorted(splits.items(), key=lambda item: item[0] == "train"):
        seconds = dataset.check_seconds - (time.monotonic() - start)
        if not isinstance(split, FolderSplit) or split.on_device or seconds <= 0:
            continue
        # In another order than by class, so that a part of the images stands for all of them.
        shuffled = split.subset(np.random.RandomState(0).permutation(split.size))
        bad, looked = find_bad_images(
            shuffled,
            image_size=dataset.image_size or FOLDER_IMAGE_SIZE,
            seconds=seconds,
            whole=name == "train",
        )
        paths = sorted(map(shuffled.path, bad))
        for path in paths:
            bad_images.check_image(path, dataset.on_bad_image)
        bad_images.check_share(
            f"{split.root}: {name} split", paths, looked, split.size, dataset.max_bad_images
        )
        count = f"{looked:,}" if looked == split.size else f"{looked:,} of {split.size:,}"
        parts.append(f"{count} {name}" + (f" ({len(bad):,} bad)" if bad else ""))
    if not parts:
        return ""
    return f"images decoded as a check: {', '.join(parts)}, in {time.monotonic() - start:.1f} s"
