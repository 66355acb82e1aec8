"""Labelled images of a network's classes that it was not trained for, read as they are published.

- FILE.npz: arrays `image` and `label`, or `test_image` and `test_label`.
- FOLDER: image files in one folder per class, matched with the network's classes by name.
- CIFAR-10.1: a folder with `cifar10.1_v6_data.npy` and `cifar10.1_v6_labels.npy`, or `v4` (Recht et
  al. 2018, "Do CIFAR-10 Classifiers Generalize to CIFAR-10?").
- CIFAR-10-C and CIFAR-100-C: a folder with `labels.npy`, and one `CORRUPTION.npy` per corruption
  (Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness").
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcifar.data import any_image, arrays, image_folder
from jaxcifar.errors import InputError, unknown

STRENGTHS = 5  # of each corruption of CIFAR-10-C, one after the other in its files

_WHAT = "an .npz file, a folder of class folders, or the files of CIFAR-10.1 or CIFAR-10-C"
_KEYS = (("test_image", "test_label"), ("image", "label"), ("images", "labels"))


class ImageSet(NamedTuple):
    """Images and their labels.

    Attributes:
      name: what it is called, e.g. "fog 3" for the third strength of a corruption.
      labels: int32 [N].
      batch: (start, stop) -> the images between, see `trained.Images`.
    """

    name: str
    labels: np.ndarray
    batch: Callable[[int, int], Sequence[Any] | np.ndarray]


def find(path: Path, class_names: Sequence[str]) -> Iterator[ImageSet]:
    """Yields the sets of images in a file or folder, one after another.

    Args:
      path: see above.
      class_names: the names of the network's classes, in the order of the labels.

    Raises:
      InputError: if the path is none of these, or its labels are not of these classes.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; must be {_WHAT}")
    if path.is_file():
        if path.suffix != ".npz":
            raise InputError(f"{path}: must be {_WHAT}")
        yield _from_npz(path, class_names)
    elif versions := sorted(path.glob("cifar10.1_v*_data.npy")):
        for data in versions:
            labels = data.with_name(data.name.replace("_data", "_labels"))
            yield _from_npy(data.name.removesuffix("_data.npy"), data, labels, class_names)
    elif (path / "labels.npy").exists():
        yield from _corruptions(path, class_names)
    else:
        yield _from_folder(path, class_names)


def strength(name: str) -> tuple[str, int] | None:
    """Returns the corruption and strength that an image set is named after, if it is."""
    found = re.fullmatch(r"(.+) ([1-9])", name)
    return (found[1], int(found[2])) if found else None


def _from_npz(path: Path, class_names: Sequence[str]) -> ImageSet:
    stored = arrays.load_npz(path)
    keys = next((pair for pair in _KEYS if pair[0] in stored and pair[1] in stored), None)
    if keys is None:
        there = ", ".join(sorted(stored)) or "nothing"
        raise InputError(f"{path}: has {there}; must have {_KEYS[0][0]} and {_KEYS[0][1]}")
    return _from_arrays(path.stem, path, *(stored[key] for key in keys), class_names)


def _from_npy(name: str, data: Path, labels: Path, class_names: Sequence[str]) -> ImageSet:
    return _from_arrays(name, data, *map(arrays.load_npy, (data, labels)), class_names)


def _from_arrays(
    name: str, path: Path, images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> ImageSet:
    images, labels = arrays.check_images(str(path), images), arrays.check_labels(str(path), labels)
    if len(images) != len(labels):
        raise InputError(f"{path}: {len(images)} images, but {len(labels)} labels")
    if labels.max() >= len(class_names):
        raise InputError(
            f"{path}: has label {labels.max()}, but the network has {len(class_names)} classes"
        )
    return ImageSet(name, labels, lambda start, stop: images[start:stop])


def _corruptions(path: Path, class_names: Sequence[str]) -> Iterator[ImageSet]:
    """The corruptions of CIFAR-10-C: in each file, every strength of all test images in turn."""
    files = sorted(file for file in path.glob("*.npy") if file.name != "labels.npy")
    if not files:
        raise InputError(f"{path}: has labels.npy, but no CORRUPTION.npy")
    for file in files:
        whole = _from_npy(file.stem, file, path / "labels.npy", class_names)
        if len(whole.labels) % STRENGTHS:
            raise InputError(f"{file}: {len(whole.labels)} images are not {STRENGTHS} equal parts")
        size = len(whole.labels) // STRENGTHS
        for part in range(STRENGTHS):
            first = part * size
            yield ImageSet(
                f"{file.stem} {part + 1}",
                whole.labels[first : first + size],
                lambda start, stop, whole=whole, first=first: whole.batch(
                    first + start, first + stop
                ),
            )


def _from_folder(path: Path, class_names: Sequence[str]) -> ImageSet:
    known = {_simple(name): label for label, name in enumerate(class_names)}
    files: list[Path] = []
    labels: list[int] = []
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        names = sorted(
            file for file in folder.iterdir() if file.name.lower().endswith(image_folder.EXTENSIONS)
        )
        if not names:
            continue
        if _simple(folder.name) not in known:
            raise InputError(f"{folder}: {unknown('class', folder.name, class_names)}")
        files += names
        labels += [known[_simple(folder.name)]] * len(names)
    if not files:
        endings = ", ".join(image_folder.EXTENSIONS)
        raise InputError(f"{path}: no images in CLASS folders ({endings}); must be {_WHAT}")
    return ImageSet(
        path.resolve().name,
        np.array(labels, np.int32),
        lambda start, stop: [any_image.read(file) for file in files[start:stop]],
    )


def _simple(name: str) -> str:
    """A class name without case, spaces, dashes and underscores."""
    return re.sub(r"[-_\s]", "", os.fspath(name).lower())
