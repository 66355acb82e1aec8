"""Users' own data in memory: NumPy arrays, sets of TensorFlow Datasets, decoded folders.

Facts about such data come from the data itself, so it is loaded when a config is validated. The
last set that was loaded is kept, so that it is loaded once per process.
"""

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxcifar.data import arrays, decoded_folder, fitting, image_folder, tfds_images
from jaxcifar.data.split import DatasetInfo, Loaded, Split, hold_out
from jaxcifar.errors import InputError

FOLDER_IMAGE_SIZE = 224  # of a folder, unless `dataset.image_size` is set

_TEST_SEED = 0  # selects the images that become the test split


class OwnData(NamedTuple):
    """Data in memory, as the network gets it.

    Attributes:
      splits: "train" and "test", and "validation" if there is one.
      class_names: the names of the classes, in the order of the labels.
      info: facts about the data, with the statistics of the training split unless the config sets
        them.
    """

    splits: dict[str, Split]
    class_names: tuple[str, ...]
    info: DatasetInfo


class _Wanted(NamedTuple):
    """What the data in memory depends on: fields of the config, and the state of the files."""

    name: str
    data_dir: str
    image_size: int
    channels: int
    test_size: int
    validation_size: int
    validation_seed: int
    on_bad_image: str
    max_bad_images: float
    exif_orientation: bool
    is_measured: bool
    files: tuple[tuple[str, int, int], ...]


def is_own(dataset: ConfigDict) -> bool:
    """Returns whether the config's `dataset` section names data that `load` loads."""
    if dataset.name == "image_folder":
        return dataset.pipeline == "device"
    return dataset.name == "arrays" or dataset.name.startswith(tfds_images.PREFIX)


def load(dataset: ConfigDict) -> OwnData:
    """Loads the data that the config's `dataset` section names.

    Raises:
      InputError: if the data is missing, damaged or unsuitable; the message says what it must be.
    """
    files = ()
    if dataset.name == "arrays":
        found = [(file, file.stat()) for file in arrays.files(arrays.find(dataset.data_dir))]
        files = tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in found)
    fields = (dataset[field] for field in _Wanted._fields[:-2])
    return _load(_Wanted(*fields, is_measured=not dataset.mean, files=files))


@lru_cache(maxsize=1)
def _load(wanted: _Wanted) -> OwnData:
    train, test, class_names = _in_size(wanted)
    if test is None:
        if not wanted.test_size:
            raise InputError(
                f"dataset.test_size = 0: {wanted.data_dir or wanted.name} has no test split; set "
                "it to the number of training images that become the test split"
            )
        train, test = hold_out(train, wanted.test_size, _TEST_SEED, "dataset.test_size")
    elif wanted.test_size and wanted.name != "image_folder":  # of which `scan` splits them off
        raise InputError(
            f"dataset.test_size = {wanted.test_size}: must be 0, as "
            f"{wanted.data_dir or wanted.name} has a test split"
        )
    splits = {"train": train, "test": test}
    if wanted.validation_size:
        train, validation = hold_out(train, wanted.validation_size, wanted.validation_seed)
        splits = {"train": train, "validation": validation, "test": test}
    info = DatasetInfo(
        wanted.name,
        image_shape=train.images.shape[1:],
        num_classes=len(class_names),
        train_size=train.size + wanted.validation_size,
        test_size=test.size,
        mean=(),
        std=(),
    )
    if wanted.is_measured:
        mean, std = fitting.statistics(train.images)
        info = dataclasses.replace(info, mean=mean, std=std, is_measured=True)
    return OwnData(splits, class_names, info)


def _in_size(wanted: _Wanted) -> Loaded:
    """Returns the data in the size and with the channels that are wanted."""
    if wanted.name == "arrays":
        loaded = arrays.read(wanted.data_dir)
    elif wanted.name == "image_folder":
        loaded = _decode_folder(wanted)
    else:
        name = wanted.name.removeprefix(tfds_images.PREFIX)
        loaded = tfds_images.read(name, wanted.data_dir, wanted.image_size)

    def fit(split: Split) -> Split:
        images = fitting.resize(split.images, wanted.image_size)
        return split._replace(images=fitting.convert(images, wanted.channels))

    return loaded._replace(train=fit(loaded.train), test=loaded.test and fit(loaded.test))


def _decode_folder(wanted: _Wanted) -> Loaded:
    files = scan_folder(wanted.data_dir, wanted.test_size)
    size = wanted.image_size or FOLDER_IMAGE_SIZE
    train, test = (
        decoded_folder.decode(
            files[name],
            size,
            on_bad_image=wanted.on_bad_image,
            max_bad_images=wanted.max_bad_images,
            exif_orientation=wanted.exif_orientation,
        )
        for name in ("train", "test")
    )
    class_names = files["train"].class_names
    counts = np.bincount(train.labels, minlength=len(class_names))
    if not counts.all():
        raise InputError(
            f"{Path(wanted.data_dir, 'train', class_names[counts.argmin()])}: none of the images "
            "can be decoded"
        )
    return Loaded(train, test, class_names)


@lru_cache(maxsize=1)
def scan_folder(root: str, test_size: int) -> dict[str, image_folder.FolderSplit]:
    """Returns the files of a folder of images, see `image_folder.scan`; lists them once."""
    if not root:
        raise InputError(
            "dataset.data_dir: dataset.name = 'image_folder' needs the folder's path, "
            "--config.dataset.data_dir=DIR"
        )
    return image_folder.scan(root, test_size)
