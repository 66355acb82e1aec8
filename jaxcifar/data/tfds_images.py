"""Reads any image classification set of TensorFlow Datasets, for `dataset.name = "tfds:NAME"`.

NAME is what `tfds.load` takes: a set's name, possibly with a configuration and a version, such as
`mnist`, `emnist/letters` or `svhn_cropped:3.1.0`. The set must have an image and a class label.
Its test split is `test`, or else `validation`.
"""

import difflib
from typing import Any

import numpy as np

from jaxcifar.data import cifar_tfds, fitting
from jaxcifar.data.host_memory import check_fits
from jaxcifar.data.split import Loaded, Split
from jaxcifar.environment import import_tensorflow
from jaxcifar.errors import InputError

PREFIX = "tfds:"

_BATCH_SIZE = 256


def read(name: str, data_dir: str, image_size: int) -> Loaded:
    """Returns the images and labels of a set, in the order in which TFDS stores them.

    Args:
      name: what `tfds.load` takes.
      data_dir: the TFDS directory; "" for TFDS's own default.
      image_size: height and width that images of different sizes are resized to; 0 if all have the
        same.

    Raises:
      InputError: if TFDS is not installed, knows no such set, or can neither read nor download it;
        or if the set does not consist of images with class labels.
    """
    field = f"dataset.name = {PREFIX + name!r}"
    if not cifar_tfds.is_installed():
        raise InputError(f"{field} needs TensorFlow Datasets: pip install 'jaxcifar[tf]'")
    if not name:
        raise InputError(f"{field}: must be tfds: and the name of a set, such as tfds:mnist")
    import_tensorflow()
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError) as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = [repr(PREFIX + other) for other in difflib.get_close_matches(name, known, 3, 0.8)]
        hint = f"; did you mean {' or '.join(near)}?" if near else f": {_brief(error)}"
        raise InputError(
            f"{field}: no such set of TensorFlow Datasets, nor one prepared in "
            f"{data_dir or 'the TFDS directory'}{hint}"
        ) from error
    image, label = _features(field, builder.info.features)
    if builder.info.splits == {}:  # nothing prepared
        _download(field, builder)
    train, test = _splits(field, builder)
    if not image_size and None in builder.info.features[image].shape[:2]:
        raise InputError(
            f"{field}: its images have different sizes; set dataset.image_size, which they are "
            "resized to"
        )
    loaded = []
    for split in (train, test):
        try:
            loaded.append(split and _read_split(builder, split, image, label, image_size))
        except InputError:
            raise
        except Exception as error:  # TFDS and TensorFlow raise many types
            raise InputError(
                f"{field}: the {split} split in {builder.data_path} cannot be read: "
                f"{_brief(error)}\nRemove that directory and prepare the set again."
            ) from error
    return Loaded(*loaded, tuple(builder.info.features[label].names))


def _features(field: str, features: Any) -> tuple[str, str]:
    """Returns the names of a set's image and label."""
    import tensorflow_datasets as tfds

    kinds = {
        name: [key for key, feature in dict(features).items() if isinstance(feature, kind)]
        for name, kind in (("image", tfds.features.Image), ("label", tfds.features.ClassLabel))
    }
    found = [name if name in keys else keys[0] for name, keys in kinds.items() if keys]
    ambiguous = any(len(keys) > 1 and name not in keys for name, keys in kinds.items())
    if len(found) < 2 or ambiguous:
        raise InputError(
            f"{field}: must have an image and a class label, but its features are "
            f"{', '.join(sorted(features))}"
        )
    image, label = found
    if features[image].np_dtype != np.uint8:
        raise InputError(f"{field}: has images of type {features[image].np_dtype}, must be uint8")
    return image, label


def _splits(field: str, builder: Any) -> tuple[str, str | None]:
    splits = [name for name, split in builder.info.splits.items() if split.num_examples]
    if "train" not in splits:
        raise InputError(f"{field}: has no train split, only {', '.join(splits)}")
    return "train", next((name for name in ("test", "validation") if name in splits), None)


def _read_split(builder: Any, split: str, image: str, label: str, image_size: int) -> Split:
    import tensorflow_datasets as tfds

    size = builder.info.splits[split].num_examples
    height, width, channels = builder.info.features[image].shape
    if image_size:
        height = width = image_size
    check_fits(f"the {split} split of {builder.info.full_name}", (size, height, width, channels))
    images = np.empty((size, height, width, channels), np.uint8)
    labels = np.empty(size, np.int32)
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        decoders=tfds.decode.PartialDecoding({image: True, label: True}),
    )
    if not image_size:
        dataset = dataset.batch(_BATCH_SIZE)
    start = 0
    for example in tfds.as_numpy(dataset):
        pixels, classes = example[image], np.atleast_1d(example[label])
        rows = slice(start, start + len(classes))
        images[rows] = fitting.fit_pixels(pixels, image_size) if image_size else pixels
        labels[rows] = classes
        start += len(classes)
    if start != size:
        raise ValueError(f"{start} examples instead of {size}")
    if labels.min() < 0:
        raise InputError(
            f"the {split} split of {builder.info.full_name}: has images without a label (-1)"
        )
    return Split(images, labels)


def _download(field: str, builder: Any) -> None:
    import requests

    try:
        # TFDS itself retries for minutes before it reports that there is no network.
        requests.head("https://storage.googleapis.com", timeout=10)
        builder.download_and_prepare()
    except Exception as error:  # TFDS and the sets' own code raise many types
        raise InputError(
            f"{field}: is not prepared in {builder.data_path}, and cannot be downloaded: "
            f"{_brief(error)}\nEither run once with a network, or copy the set's directory from a "
            "machine that has it.\nThe directory above it is set by --config.dataset.data_dir or "
            "$TFDS_DATA_DIR."
        ) from error


def _brief(error: Exception) -> str:
    reason = (str(error).strip() or repr(error)).split("\n")[0]
    return f"{type(error).__name__}: {reason[:200]}"
