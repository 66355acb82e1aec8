"""The catalogue of data sets: their facts, and how each is loaded."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxcifar import errors
from jaxcifar.data import cifar, image_folder
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.data.split import DatasetInfo, Split, hold_out
from jaxcifar.errors import InputError

# Statistics of ImageNet's training images, as commonly used (torchvision's models).
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class _Source(NamedTuple):
    """A data set that fits in memory: its facts, and (facts, dataset section) -> train, test."""

    info: DatasetInfo
    load: Callable[[DatasetInfo, ConfigDict], tuple[Split, Split]]


def info(dataset: ConfigDict) -> DatasetInfo:
    """Returns the facts about the data set that the config's `dataset` section names.

    Raises:
      InputError: if the name is unknown, or `data_dir` is not a folder of images.
    """
    if dataset.name == "image_folder":
        splits = _scan_folder(dataset.data_dir)
        return DatasetInfo(
            "image_folder",
            image_shape=(dataset.image_size, dataset.image_size, 3),
            num_classes=len(splits["train"].class_names),
            train_size=splits["train"].size,
            test_size=splits["test"].size,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
        )
    if dataset.name not in _SOURCES:
        raise errors.unknown("dataset.name", dataset.name, [*_SOURCES, "image_folder"])
    facts = _SOURCES[dataset.name].info
    if dataset.labels == "coarse":
        return dataclasses.replace(facts, num_classes=20)
    return facts


def class_names(dataset: ConfigDict) -> tuple[str, ...]:
    """Returns the class names in the order of the labels; "0", "1", ... if there are no names."""
    facts = info(dataset)
    if dataset.name == "image_folder":
        return _scan_folder(dataset.data_dir)["train"].class_names
    if dataset.name in cifar.FORMATS:
        return cifar.class_names(dataset.name, dataset.labels)
    return tuple(map(str, range(facts.num_classes)))


def uses_device_pipeline(dataset: ConfigDict) -> bool:
    """Returns whether the config's `dataset` section asks for the device pipeline.

    This is for checking a config; once the data is loaded, each split's `on_device` has the answer.
    """
    if dataset.pipeline == "auto":
        return dataset.name != "image_folder"
    return dataset.pipeline == "device"


def load(dataset: ConfigDict) -> dict[str, Split | FolderSplit]:
    """Loads the data set that the config's `dataset` section names.

    Returns:
      The splits "train" and "test", and "validation" if `validation_size` is above 0, which is
      taken out of the training split. Images are in the order of the published archives.

    Raises:
      InputError: if the data is neither on disk nor downloadable, or is damaged.
    """
    if dataset.name == "image_folder":
        return _load_folder(dataset)
    facts = info(dataset)
    train, test = _SOURCES[dataset.name].load(facts, dataset)
    for name, split, size in (("train", train, facts.train_size), ("test", test, facts.test_size)):
        if split.images.shape != (size, *facts.image_shape):
            raise InputError(
                f"{facts.name}: the {name} split has images of shape {split.images.shape}, "
                f"expected {(size, *facts.image_shape)}; prepare the data again"
            )
    on_device = uses_device_pipeline(dataset)
    train, test = train._replace(on_device=on_device), test._replace(on_device=on_device)
    if not dataset.validation_size:
        return {"train": train, "test": test}
    train, validation = hold_out(train, dataset.validation_size, dataset.validation_seed)
    return {"train": train, "validation": validation, "test": test}


def fingerprints(splits: Mapping[str, Split | FolderSplit]) -> dict[str, str]:
    """Returns a fingerprint of each split, which changes with any part of its data."""
    return {name: split.fingerprint() for name, split in splits.items()}


@cache
def _scan_folder(root: str) -> dict[str, FolderSplit]:
    if not root:
        raise InputError(
            "dataset.data_dir: dataset.name = 'image_folder' needs the folder's path, "
            "--config.dataset.data_dir=DIR"
        )
    return image_folder.scan(root)


def _load_folder(dataset: ConfigDict) -> dict[str, Split | FolderSplit]:
    splits = _scan_folder(dataset.data_dir)
    if not dataset.validation_size:
        return dict(splits)
    train = splits["train"]
    indices = Split(np.arange(train.size), train.labels)
    kept, held_out = hold_out(indices, dataset.validation_size, dataset.validation_seed)
    return {
        "train": train.subset(kept.images),
        "validation": train.subset(held_out.images),
        "test": splits["test"],
    }


def _load_cifar(facts: DatasetInfo, dataset: ConfigDict) -> tuple[Split, Split]:
    arrays = cifar.load(facts.name, dataset.data_dir)
    labels = "coarse_label" if dataset.labels == "coarse" else "label"
    train, test = (
        Split(arrays[f"{name}_image"], arrays[f"{name}_{labels}"]) for name in ("train", "test")
    )
    return train, test


def _load_digits(facts: DatasetInfo, dataset: ConfigDict) -> tuple[Split, Split]:
    # 1,797 handwritten digits of the UCI repository, with grey levels from 0 to 16.
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return hold_out(Split(images, digits.target.astype(np.int32)), facts.test_size, seed=0)


def _make_fake(facts: DatasetInfo, dataset: ConfigDict) -> tuple[Split, Split]:
    random = np.random.RandomState(0)

    def make(size: int) -> Split:
        images = random.randint(0, 256, (size, *facts.image_shape), np.uint8)
        return Split(images, random.randint(0, facts.num_classes, size, np.int32))

    return make(facts.train_size), make(facts.test_size)


_SOURCES = {
    "cifar10": _Source(
        DatasetInfo(
            "cifar10",
            image_shape=(32, 32, 3),
            num_classes=10,
            train_size=50_000,
            test_size=10_000,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
        ),
        _load_cifar,
    ),
    "cifar100": _Source(
        DatasetInfo(
            "cifar100",
            image_shape=(32, 32, 3),
            num_classes=100,
            train_size=50_000,
            test_size=10_000,
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
        ),
        _load_cifar,
    ),
    "digits": _Source(
        DatasetInfo(
            "digits",
            image_shape=(8, 8, 1),
            num_classes=10,
            train_size=1438,
            test_size=359,
            mean=(0.3058,),
            std=(0.3762,),
        ),
        _load_digits,
    ),
    "fake": _Source(
        DatasetInfo(
            "fake",
            image_shape=(32, 32, 3),
            num_classes=10,
            train_size=500,
            test_size=130,
            mean=(0.5, 0.5, 0.5),
            std=(0.29, 0.29, 0.29),
        ),
        _make_fake,
    ),
}
