"""Reads images and labels from NumPy files, for `dataset.name = "arrays"`.

An .npz file has these arrays, or a folder has them as .npy files, which are memory-mapped:

    train_image, test_image    uint8 [N, H, W] or [N, H, W, C] with 1 or 3 channels
    train_label, test_label    integers [N] or [N, 1], from 0 to the number of classes - 1
    class_names                text [classes]; may be missing

The plurals (train_images) and Keras's names (x_train, y_train) are known as well. The test arrays
may be missing where the config splits test images off. Nothing is ever unpickled.
"""

import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from absl import logging

from jaxcifar.data.split import Loaded, Split
from jaxcifar.errors import InputError

# The names of each array, of which a file has one.
_NAMES = {
    "train_image": ("train_image", "train_images", "x_train"),
    "train_label": ("train_label", "train_labels", "y_train"),
    "test_image": ("test_image", "test_images", "x_test"),
    "test_label": ("test_label", "test_labels", "y_test"),
    "class_names": ("class_names",),
}
_LAYOUT = (
    "an .npz file, or a folder of .npy files, with train_image, train_label, test_image, "
    "test_label and possibly class_names"
)


def read(path: str) -> Loaded:
    """Returns the images and labels in an .npz file or a folder of .npy files.

    Args:
      path: the file or folder.

    Raises:
      InputError: naming the file and the array that is missing or unsuitable, and what it must be.
    """
    arrays = _read_arrays(find(path))
    loaded: dict[str, Split | None] = {}
    for part in ("train", "test"):
        image, label = arrays.get(f"{part}_image"), arrays.get(f"{part}_label")
        if image is None and label is None and part == "test":
            loaded[part] = None
            continue
        for name, array in ((f"{part}_image", image), (f"{part}_label", label)):
            if array is None:
                raise InputError(f"{path} has no {name}; dataset.data_dir must be {_LAYOUT}")
        images = check_images(f"{path}: {part}_image", image)
        labels = check_labels(f"{path}: {part}_label", label)
        if len(images) != len(labels):
            raise InputError(
                f"{path}: {len(images)} images in {part}_image, but {len(labels)} labels in "
                f"{part}_label; there must be one label per image"
            )
        loaded[part] = Split(images, labels)
    train, test = loaded["train"], loaded["test"]
    if test and train.images.shape[1:] != test.images.shape[1:]:
        raise InputError(
            f"{path}: the images of train_image have shape {train.images.shape[1:]}, those of "
            f"test_image {test.images.shape[1:]}; they must have the same"
        )
    names = _check_class_names(f"{path}: class_names", arrays.get("class_names"))
    _check_classes(path, train.labels, None if test is None else test.labels, names)
    count = int(train.labels.max()) + 1
    return Loaded(train, test, names or tuple(map(str, range(count))))


def find(path: str) -> Path:
    """Returns the path as a file or folder that exists.

    Raises:
      InputError: if it is neither, or "".
    """
    if not path:
        raise InputError(
            "dataset.data_dir: dataset.name = 'arrays' needs a path, "
            f"--config.dataset.data_dir=PATH, of {_LAYOUT}"
        )
    found = Path(path).expanduser()
    if found.is_dir() or (found.is_file() and found.suffix == ".npz"):
        return found
    problem = "not an .npz file" if found.exists() else "no such file or folder"
    raise InputError(f"dataset.data_dir = {path!r}: {problem}; it must be {_LAYOUT}")


def files(path: Path) -> list[Path]:
    """Returns the files that are read: the .npz file itself, or the folder's .npy files."""
    return sorted(p for p in path.glob("*.npy") if p.is_file()) if path.is_dir() else [path]


def load_npy(file: Path) -> np.ndarray:
    """Returns the array in an .npy file, memory-mapped.

    Raises:
      InputError: if it cannot be read.
    """
    with _explained(str(file)):
        _check_start(file, b"\x93NUMPY")
        return np.load(file, mmap_mode="r", allow_pickle=False)


def load_npz(
    file: Path, choose: Callable[[Sequence[str]], Mapping[str, str]] | None = None
) -> dict[str, np.ndarray]:
    """Returns the arrays in an .npz file.

    Args:
      file: the file.
      choose: names of the stored arrays -> those to read, by the name in the result; None for all.

    Raises:
      InputError: if it cannot be read.
    """
    arrays = {}
    with _explained(str(file)):
        _check_start(file, b"PK")  # a zip archive
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            keys = choose(stored.files) if choose else {key: key for key in stored.files}
            for name, key in keys.items():
                with _explained(f"{file}: {key}"):
                    arrays[name] = stored[key]
    return arrays


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays under their first names; others are named in a warning and not read."""
    if path.is_dir():
        found = {file.stem: file for file in files(path)}
        return {name: load_npy(found[key]) for name, key in _choose(path, found).items()}
    return load_npz(path, partial(_choose, path))


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Raises an InputError that names a file for what NumPy raises when it reads it."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise InputError(
                f"{what}: holds Python objects, which are never loaded; convert it to an array of "
                "numbers or text, e.g. np.array(values.tolist())"
            ) from error
        raise InputError(f"{what}: not a readable NumPy file ({error})") from error


def _check_start(file: Path, start: bytes) -> None:
    """Raises a ValueError for another kind of file, which NumPy would take for a pickle."""
    with file.open("rb") as stream:
        if stream.read(len(start)) != start:
            raise ValueError("it has another format")


def _choose(path: Path, found: Collection[str]) -> dict[str, str]:
    """Returns which of the keys found stands for each array."""
    chosen = {}
    for name, spellings in _NAMES.items():
        keys = [key for key in spellings if key in found]
        if len(keys) > 1:
            raise InputError(f"{path}: has both {keys[0]} and {keys[1]}; remove one of them")
        if keys:
            chosen[name] = keys[0]
    ignored = sorted(set(found) - set(chosen.values()))
    if not chosen:
        there = ", ".join(ignored[:8]) or "nothing"
        raise InputError(f"{path}: has {there}; dataset.data_dir must be {_LAYOUT}")
    if ignored:
        logging.warning("%s: not read: %s", path, ", ".join(ignored))
    return chosen


def check_images(what: str, images: np.ndarray) -> np.ndarray:
    """Returns images [N, H, W, C], after checking type and shape."""
    if images.dtype != np.uint8:
        hint = "convert them with .astype(np.uint8) if they are from 0 to 255"
        if images.dtype.kind == "f":
            hint = "if they are from 0 to 1, convert them with np.round(x * 255).astype(np.uint8)"
        raise InputError(f"{what}: has values of type {images.dtype}, must be uint8; {hint}")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        hint = ""
        if images.ndim == 4 and images.shape[1] in (1, 3):
            hint = "; move the channels to the end with .transpose(0, 2, 3, 1)"
        elif images.ndim == 4 and images.shape[3] == 4:
            hint = "; leave the fourth channel out with [..., :3]"
        elif images.ndim == 2:
            hint = "; restore rows and columns with .reshape(-1, height, width)"
        raise InputError(
            f"{what}: has shape {images.shape}, must be [N, H, W] or [N, H, W, C] with 1 or 3 "
            f"channels{hint}"
        )
    if 0 in images.shape:
        raise InputError(f"{what}: is empty, of shape {images.shape}")
    return images


def check_labels(what: str, labels: np.ndarray) -> np.ndarray:
    """Returns labels int32 [N], after checking type and shape."""
    if labels.dtype.kind not in "iu":
        hint = "convert them with .astype(np.int64)"
        if labels.dtype.kind in "USO":
            hint = (
                "number them with names, labels = np.unique(labels, return_inverse=True), and "
                "store the names as class_names"
            )
        raise InputError(f"{what}: has values of type {labels.dtype}, must be integers; {hint}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        hint = "; if they are one-hot, use .argmax(1)" if labels.ndim == 2 else ""
        raise InputError(f"{what}: has shape {labels.shape}, must be [N]{hint}")
    if not labels.size:
        raise InputError(f"{what}: is empty")
    if labels.min() < 0:
        raise InputError(
            f"{what}: has label {labels.min()}, must be from 0 on; leave unlabelled images out"
        )
    if labels.max() >= 2**20:  # a wrong column, and more classes than a classifier could have
        raise InputError(f"{what}: has label {labels.max()}; labels must number the classes from 0")
    return labels.astype(np.int32)


def _check_class_names(what: str, names: np.ndarray | None) -> tuple[str, ...]:
    if names is None:
        return ()
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise InputError(
            f"{what}: has type {names.dtype} and shape {names.shape}, must be text [classes]"
        )
    try:
        return tuple(n.decode() if isinstance(n, bytes) else str(n) for n in names.tolist())
    except UnicodeDecodeError as error:
        raise InputError(f"{what}: not UTF-8 text ({error})") from error


def _check_classes(
    path: str, train: np.ndarray, test: np.ndarray | None, names: tuple[str, ...]
) -> None:
    """Checks that the labels number classes that all have training images."""
    counts = np.bincount(train)
    if not counts[0] and counts[1:].all() and (not names or len(names) == len(counts) - 1):
        raise InputError(
            f"{path}: train_label: labels are from 1 to {len(counts) - 1}, must start at 0; "
            "subtract 1"
        )
    if names and len(names) != len(counts):
        raise InputError(
            f"{path}: {len(names)} class_names, but labels up to {len(counts) - 1} in train_label; "
            "there must be one name per label"
        )
    if missing := np.flatnonzero(counts == 0).tolist():
        raise InputError(
            f"{path}: train_label: no image has label {', '.join(map(str, missing[:5]))}"
            f"{', ...' if len(missing) > 5 else ''}, though labels go up to {len(counts) - 1}; "
            "number the classes without gaps, e.g. by np.unique(labels, return_inverse=True)"
        )
    if test is not None and test.max() >= len(counts):
        raise InputError(
            f"{path}: test_label: has label {test.max()}, but those of train_label go up to "
            f"{len(counts) - 1}"
        )
