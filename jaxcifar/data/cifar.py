"""CIFAR-10 and CIFAR-100 as arrays, from whichever source the machine has.

The sources, in the order in which they are tried:

1. `jaxcifar/<name>.npz` in the data directory, which the first start from another source writes;
2. the official archives in the data directory, packed or unpacked;
3. TensorFlow Datasets, if it is installed, which can also download the data.

The data directory is `dataset.data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets. Whatever
the source, images and labels are checked against the SHA-256 of the published ones.
"""

import hashlib
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from jaxcifar.data import cifar_archives, cifar_format, cifar_tfds
from jaxcifar.data.cifar_format import CifarFormat
from jaxcifar.errors import InputError
from jaxcifar.regular_files import check_regular

FORMATS = {fmt.name: fmt for fmt in cifar_format.FORMATS}

Arrays = dict[str, np.ndarray]


def class_names(name: str, labels: str = "fine") -> tuple[str, ...]:
    """Returns the class names of a data set in the order of its labels, "fine" or "coarse"."""
    key = "coarse_label" if labels == "coarse" else "label"
    return next(column.class_names for column in FORMATS[name].labels if column.key == key)


def load(name: str, data_dir: str = "") -> Arrays:
    """Returns both splits of a data set, in the order of the published archives.

    Args:
      name: cifar10 or cifar100.
      data_dir: the data directory; "" for the default.

    Returns:
      `train_image` and `test_image`, uint8 [N, 32, 32, 3]; `train_label` and `test_label`, int32
      [N]; for cifar100 `train_coarse_label` and `test_coarse_label` as well.

    Raises:
      InputError: if no source has the data, or what is there is not the published data.
    """
    fmt, directory = FORMATS[name], _directory(data_dir)
    arrays = _read_stored(_stored_file(directory, name), fmt)
    if arrays is not None:
        return arrays
    if source := cifar_archives.find(directory, fmt):
        arrays = to_arrays(fmt, cifar_archives.read(source, [fmt])[name])
    elif cifar_tfds.is_installed():
        for path in (directory / name).rglob("*"):
            check_regular(path)
        arrays = cifar_tfds.load(name, data_dir)
    else:
        raise _not_found(fmt, directory)
    if digest(arrays) != fmt.arrays_sha256:
        raise InputError(
            f"{name} in {source or directory}: not the published images and labels; remove it and "
            f"prepare it again: {cifar_tfds.PREPARE}"
        )
    with suppress(OSError):  # read-only or full: then each start reads the source
        _store(_stored_file(directory, name), arrays)
    return arrays


def prepare(source: Path, data_dir: str | None = None) -> list[Path]:
    """Stores every data set found in `source` where training looks for it.

    Args:
      source: see `cifar_archives.read`.
      data_dir: the data directory; None for the default.

    Returns:
      What is now in place: for each data set the stored arrays, and the TFDS directory if TFDS is
      installed. One that was there before is left as it is.

    Raises:
      InputError: if no data set is complete in `source`, or a file is not the published one.
      OSError: if the data directory cannot be written.
    """
    paths = []
    for name, files in cifar_archives.read(source, list(FORMATS.values())).items():
        fmt, file = FORMATS[name], _stored_file(_directory(data_dir or ""), name)
        if _read_stored(file, fmt) is None:
            _store(file, to_arrays(fmt, files))
        paths.append(file)
        if cifar_tfds.is_installed():
            paths.append(cifar_tfds.prepare(fmt, files, data_dir))
    return paths


def to_arrays(fmt: CifarFormat, files: Mapping[str, bytes]) -> Arrays:
    """Converts the image files of the binary version to arrays, see `load`."""
    *train, test = fmt.records
    arrays = {}
    for split, names in (("train", train), ("test", [test])):
        data = b"".join(files[name] for name in names)
        records = np.frombuffer(data, np.uint8).reshape(-1, fmt.record_bytes)
        images = records[:, len(fmt.labels) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        arrays[f"{split}_image"] = np.ascontiguousarray(images)
        for column, labels in enumerate(fmt.labels):
            arrays[f"{split}_{labels.key}"] = records[:, column].astype(np.int32)
    return arrays


def digest(arrays: Arrays) -> str:
    """Returns a SHA-256 over names, types, shapes and values, in hexadecimal."""
    sha256 = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha256.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        sha256.update(np.ascontiguousarray(array))
    return sha256.hexdigest()


def _directory(data_dir: str) -> Path:
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return Path(data_dir or default).expanduser()


def _stored_file(directory: Path, name: str) -> Path:
    return directory / "jaxcifar" / f"{name}.npz"


def _read_stored(file: Path, fmt: CifarFormat) -> Arrays | None:
    """Returns the stored arrays; None if they are missing, damaged or not the published ones."""
    check_regular(file)
    try:
        with np.load(file) as stored:
            arrays = dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return arrays if digest(arrays) == fmt.arrays_sha256 else None


def _store(file: Path, arrays: Arrays) -> None:
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("wb") as stream:
            np.savez(stream, **arrays)
        part.replace(file)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise


def _not_found(fmt: CifarFormat, directory: Path) -> InputError:
    """The error where TFDS is not installed and `directory` has no archive."""
    prepared = directory / fmt.name
    reading = "read the TFDS data there" if prepared.exists() else "download the data"
    return InputError(
        f"{fmt.name} is not in {directory}, where it was looked for as\n"
        f"  {' or '.join(fmt.archives)}, packed or unpacked.\n"
        f"Either copy one of them there, or prepare it from where it is:\n"
        f"  {cifar_tfds.PREPARE}\n"
        f"or install TensorFlow Datasets, which can {reading}: pip install 'jaxcifar[tf]'\n"
        f"The directory is set by --config.dataset.data_dir or $TFDS_DATA_DIR."
    )
