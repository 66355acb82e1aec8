"""Reads, downloads and prepares CIFAR with TensorFlow Datasets (TFDS), an optional dependency."""

import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcifar.data.cifar_format import CifarFormat
from jaxcifar.environment import import_tensorflow
from jaxcifar.errors import InputError

PREPARE = "python scripts/prepare_data.py PATH [--data_dir DIR]"


def is_installed() -> bool:
    """Returns whether TensorFlow and TFDS are installed; imports neither."""
    return all(map(importlib.util.find_spec, ("tensorflow", "tensorflow_datasets")))


def load(name: str, data_dir: str) -> dict[str, np.ndarray]:
    """Returns the arrays of both splits, see `cifar.load`; downloads them if they are missing.

    Args:
      name: the data set.
      data_dir: the TFDS directory; "" for TFDS's own default.

    Raises:
      InputError: if the data can be neither read nor downloaded.
    """
    import_tensorflow()
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_cls(name)(data_dir=data_dir or None)
        if not builder.info.splits:  # nothing prepared; is_prepared() asks the same, with a warning
            _download(builder)
        arrays = {}
        for split in "train", "test":
            examples = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
            order = np.argsort(examples.pop("id"), kind="stable")  # TFDS stores them by a hash
            arrays[f"{split}_image"] = examples.pop("image")[order]
            for label, values in examples.items():
                arrays[f"{split}_{label}"] = values[order].astype(np.int32)
        return arrays
    except InputError:
        raise
    except Exception as error:  # TFDS and TensorFlow raise many types
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{name} in {data_dir or 'the TFDS directory'} cannot be read: "
            f"{type(error).__name__}: {reason[:300]}\n"
            f"Remove it and prepare it again: {PREPARE}"
        ) from error


def _download(builder: Any) -> None:
    import requests

    try:
        # TFDS itself retries for minutes before it reports that there is no network.
        requests.head("https://www.cs.toronto.edu", timeout=10)
        builder.download_and_prepare()
    except requests.exceptions.RequestException as error:
        raise InputError(
            f"{builder.name} is neither on this machine nor downloadable "
            f"({type(error).__name__}).\n"
            f"Looked for the prepared data in {builder.data_path}.\n"
            f"Either run once with a network, or prepare the data from an official archive:\n"
            f"  {PREPARE}\n"
            f"The directory is set by --config.dataset.data_dir or $TFDS_DATA_DIR."
        ) from error


def prepare(fmt: CifarFormat, files: Mapping[str, bytes], data_dir: str | None) -> Path:
    """Writes a data set's TFDS directory, unless it is there already.

    Args:
      fmt: the data set.
      files: its files of the binary version, see `cifar_archives.read`.
      data_dir: the TFDS directory; None for TFDS's own default.

    Returns:
      The data set's directory, such as `<data_dir>/cifar10/3.0.2`.
    """
    import_tensorflow()
    import tensorflow_datasets as tfds

    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, fmt.folders[0])
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        stock_builder = tfds.builder_cls(fmt.name)
        with tfds.core.registered.skip_registration():

            class FromFiles(stock_builder):
                """The stock builder, reading `root` instead of downloading."""

                name = fmt.name

                def _make_download_manager(self, download_dir: Any, download_config: Any) -> Any:
                    manager = super()._make_download_manager(download_dir, download_config)
                    manager.download_and_extract = lambda url: root
                    return manager

        builder = FromFiles(data_dir=data_dir)
        builder.download_and_prepare()
        return Path(builder.data_path)
