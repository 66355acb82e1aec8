"""The data sets: shapes, statistics, splits, and where the bytes come from."""

import dataclasses
import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxcifar import errors
from jaxcifar.data import image_folder
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.environment import import_tensorflow
from jaxcifar.errors import InputError


class Split(NamedTuple):
    """A whole split in memory: `images` uint8 [N, H, W, C] and `labels` int32 [N]."""

    images: np.ndarray
    labels: np.ndarray

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.labels)

    def fingerprint(self) -> str:
        """A SHA-256 over shapes, images and labels, in hexadecimal."""
        digest = hashlib.sha256()
        for array in self:
            digest.update(f"{array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is loaded.

    Attributes:
      mean, std: of each channel over all training pixels, on the scale from 0 to 1. The deviation
        is not the mean of the deviations of single images, (0.2023, 0.1994, 0.2010) for CIFAR-10,
        that many public repositories use.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    train_size: int
    test_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


_CIFAR10 = DatasetInfo(
    "cifar10",
    image_shape=(32, 32, 3),
    num_classes=10,
    train_size=50_000,
    test_size=10_000,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
_CIFAR100 = DatasetInfo(
    "cifar100",
    image_shape=(32, 32, 3),
    num_classes=100,
    train_size=50_000,
    test_size=10_000,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)
# Of ImageNet's training images, by common use (torchvision's models).
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
# SHA-256 of the published images and labels, see `_digest`; from the binary archives.
_PUBLISHED = {
    "cifar10": "0048ba43616a7dd4717bc9adf55471fe3eb911c725387574abb8a98fa07ea7d8",
    "cifar100": "7ec82fa16826e32e7e9ab2e2f434b391f68bfdef90cf339320a622fdf01f2a8a",
}
_DIGITS = DatasetInfo(
    "digits",
    image_shape=(8, 8, 1),
    num_classes=10,
    train_size=1438,
    test_size=359,
    mean=(0.3058,),
    std=(0.3762,),
)
_FAKE = DatasetInfo(
    "fake",
    image_shape=(32, 32, 3),
    num_classes=10,
    train_size=500,
    test_size=130,
    mean=(0.5, 0.5, 0.5),
    std=(0.29, 0.29, 0.29),
)


def info(config: ConfigDict) -> DatasetInfo:
    """Returns what is known of the data set that the config's `dataset` section names.

    Raises:
      InputError: if there is none of that name, or a folder of images is not one.
    """
    if config.name == "image_folder":
        splits = _scan(config.data_dir)
        return DatasetInfo(
            "image_folder",
            image_shape=(config.image_size, config.image_size, 3),
            num_classes=len(splits["train"].class_names),
            train_size=splits["train"].size,
            test_size=splits["test"].size,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
        )
    if config.name not in _SOURCES:
        raise errors.unknown("dataset.name", config.name, [*_SOURCES, "image_folder"])
    facts = _SOURCES[config.name][0]
    if config.labels == "coarse":
        return dataclasses.replace(facts, num_classes=20)
    return facts


def class_names(config: ConfigDict) -> tuple[str, ...]:
    """Returns the classes' names in the order of the labels; numbers where there are no names."""
    facts = info(config)
    if config.name == "image_folder":
        return _scan(config.data_dir)["train"].class_names
    if config.name.startswith("cifar"):
        import_tensorflow()
        import tensorflow_datasets as tfds

        feature = "coarse_label" if config.labels == "coarse" else "label"
        builder = tfds.builder_cls(config.name)(data_dir=config.data_dir or None)
        return tuple(builder.info.features[feature].names)
    return tuple(map(str, range(facts.num_classes)))


def load(config: ConfigDict) -> dict[str, Split | FolderSplit]:
    """Loads the data set that the config's `dataset` section names.

    Returns:
      The splits "train" and "test", and "validation" if `validation_size` is above 0, which is
      taken out of the training split. Their order is that of the published archives.

    Raises:
      InputError: if the data are neither there nor to be had.
    """
    facts = info(config)
    if config.name == "image_folder":
        splits = _scan(config.data_dir)
        if not config.validation_size:
            return dict(splits)
        train = splits["train"]
        first, second = hold_out(
            Split(np.arange(train.size), train.labels),
            config.validation_size,
            config.validation_seed,
        )
        return {
            "train": train.subset(first.images),
            "validation": train.subset(second.images),
            "test": splits["test"],
        }
    train, test = _SOURCES[config.name][1](facts, config)
    for name, split, size in (("train", train, facts.train_size), ("test", test, facts.test_size)):
        if split.images.shape != (size, *facts.image_shape):
            raise InputError(
                f"{facts.name}: the {name} split has images of shape {split.images.shape}, "
                f"expected {(size, *facts.image_shape)}; prepare the data again"
            )
    if not config.validation_size:
        return {"train": train, "test": test}
    train, validation = hold_out(train, config.validation_size, config.validation_seed)
    return {"train": train, "validation": validation, "test": test}


def hold_out(split: Split, size: int, seed: int) -> tuple[Split, Split]:
    """Divides a split in two, the second of `size` examples, each with the same share of a class.

    The classes' shares are rounded by largest remainder, but one example of each stays in the
    first. Both parts keep the order of the whole.

    Raises:
      InputError: if there are too few examples for that.
    """
    # NumPy promises that RandomState's streams never change.
    order = np.random.RandomState(seed).permutation(split.size)
    counts = np.bincount(split.labels)
    shares = counts * size / split.size
    most = np.maximum(counts - 1, 0)
    if size > most.sum():
        raise InputError(
            f"dataset.validation_size = {size}: of {split.size} training images at most "
            f"{most.sum()} can be held out, as one a class must remain"
        )
    quotas = np.minimum(np.floor(shares).astype(int), most)
    while missing := size - quotas.sum():
        largest_remainders = np.argsort(quotas - shares, kind="stable")
        quotas[[c for c in largest_remainders if quotas[c] < most[c]][:missing]] += 1

    held_out = np.zeros(split.size, bool)
    for label, quota in enumerate(quotas):
        held_out[order[split.labels[order] == label][:quota]] = True
    first, second = (Split(split.images[m], split.labels[m]) for m in (~held_out, held_out))
    return first, second


def fingerprints(splits: Mapping[str, Split | FolderSplit]) -> dict[str, str]:
    """Returns the fingerprint of each split, which is another if anything in it is."""
    return {name: split.fingerprint() for name, split in splits.items()}


@cache
def _scan(root: str) -> dict[str, FolderSplit]:
    if not root:
        raise InputError("dataset.data_dir: dataset.name = 'image_folder' needs the folder's path")
    return image_folder.scan(root)


def _cifar(facts: DatasetInfo, config: ConfigDict) -> tuple[Split, Split]:
    # A start that finds the arrays needs no TensorFlow.
    directory = config.data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    file = Path(directory).expanduser() / "jaxcifar" / f"{facts.name}.npz"
    arrays = _read_arrays(file, facts)
    if arrays is None:
        arrays = _from_tfds(facts, config)
        if _digest(arrays) != _PUBLISHED[facts.name]:
            raise InputError(
                f"{facts.name} in {directory}: not the published images and labels; remove it and "
                "prepare it again: python scripts/prepare_data.py PATH [--data_dir DIR]"
            )
        _write_arrays(file, arrays)
    labels = "coarse_label" if config.labels == "coarse" else "label"
    train, test = (
        Split(arrays[f"{name}_image"], arrays[f"{name}_{labels}"]) for name in ("train", "test")
    )
    return train, test


def _read_arrays(file: Path, facts: DatasetInfo) -> dict[str, np.ndarray] | None:
    """The arrays of both splits by name; None if they are not there as they were published."""
    try:
        with np.load(file) as stored:
            arrays = dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return arrays if _digest(arrays) == _PUBLISHED[facts.name] else None


def _write_arrays(file: Path, arrays: dict[str, np.ndarray]) -> None:
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(exist_ok=True)
        with part.open("wb") as stream:
            np.savez(stream, **arrays)
        part.replace(file)
    except OSError:  # not ours to write to, or full: then each start reads TFDS's files
        with suppress(OSError):
            part.unlink()


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _from_tfds(facts: DatasetInfo, config: ConfigDict) -> dict[str, np.ndarray]:
    import_tensorflow()
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_cls(facts.name)(data_dir=config.data_dir or None)
        if not builder.info.splits:  # nothing prepared; is_prepared() asks the same, with a warning
            _download(builder, facts)
        arrays = {}
        for name in "train", "test":
            examples = tfds.as_numpy(builder.as_dataset(split=name, batch_size=-1))
            order = np.argsort(examples.pop("id"), kind="stable")  # TFDS stores them by a hash
            arrays[f"{name}_image"] = examples.pop("image")[order]
            for label, values in examples.items():
                arrays[f"{name}_{label}"] = values[order].astype(np.int32)
        return arrays
    except InputError:
        raise
    except Exception as error:  # TFDS and TensorFlow raise many types
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{facts.name} in {config.data_dir or 'the TFDS directory'} cannot be read: "
            f"{type(error).__name__}: {reason[:300]}\n"
            f"Remove it and prepare it again: python scripts/prepare_data.py PATH [--data_dir DIR]"
        ) from error


def _download(builder, facts: DatasetInfo) -> None:
    import requests

    try:
        # TFDS itself retries for minutes before it says that there is no network.
        requests.head("https://www.cs.toronto.edu", timeout=10)
        builder.download_and_prepare()
    except requests.exceptions.RequestException as error:
        raise InputError(
            f"{facts.name} is not on this machine and cannot be downloaded "
            f"({type(error).__name__}).\n"
            f"Looked for the prepared data in {builder.data_path}.\n"
            f"Either run once with a network, or prepare it from an archive that you have:\n"
            f"  python scripts/prepare_data.py PATH [--data_dir DIR]\n"
            f"The directory is set by --config.dataset.data_dir or $TFDS_DATA_DIR."
        ) from error


def _digits(facts: DatasetInfo, config: ConfigDict) -> tuple[Split, Split]:
    # 1,797 handwritten digits of the UCI repository, with grey levels from 0 to 16.
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return hold_out(Split(images, digits.target.astype(np.int32)), facts.test_size, seed=0)


def _fake(facts: DatasetInfo, config: ConfigDict) -> tuple[Split, Split]:
    random = np.random.RandomState(0)

    def make(size: int) -> Split:
        images = random.randint(0, 256, (size, *facts.image_shape), np.uint8)
        return Split(images, random.randint(0, facts.num_classes, size, np.int32))

    return make(facts.train_size), make(facts.test_size)


_SOURCES: dict[str, tuple[DatasetInfo, Callable[..., tuple[Split, Split]]]] = {
    "cifar10": (_CIFAR10, _cifar),
    "cifar100": (_CIFAR100, _cifar),
    "digits": (_DIGITS, _digits),
    "fake": (_FAKE, _fake),
}
