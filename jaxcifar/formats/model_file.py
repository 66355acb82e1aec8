"""A trained network in one .npz file: its weights by name, and what is needed to use them.

The arrays are named `params/...` and `batch_stats/...`. `header` is JSON: the config, the step, the
shape of the images, how they are normalised, and the names of the classes.
"""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from jaxcifar.data import arrays
from jaxcifar.data.split import DatasetInfo
from jaxcifar.errors import InputError
from jaxcifar.resilience import dataset_facts, manifest

_FORMAT = "jaxcifar model 1"


class Contents(NamedTuple):
    """What a file has of a trained network; see `trained.TrainedModel`."""

    config: ConfigDict
    step: int
    info: DatasetInfo
    class_names: tuple[str, ...]
    variables: dict[str, Any]
    packed: bool = False  # whether they are those of `models.packing`


def serialize(contents: Contents) -> bytes:
    """Returns the contents of a file."""
    header = {
        "format": _FORMAT,
        "config": manifest.plain(contents.config),
        "step": contents.step,
        "packed": contents.packed,
        **dataset_facts.as_entries(contents.info, contents.class_names),
    }
    header["config"]["dataset"]["data_dir"] = ""  # of this machine
    flat = traverse_util.flatten_dict(contents.variables, sep="/")
    stored = {name: np.asarray(value) for name, value in flat.items()}
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, header=np.array(json.dumps(header)), **stored)
    return stream.getvalue()


def read(file: Path) -> Contents:
    """Returns the contents of a file.

    Raises:
      InputError: if it is no such file, or damaged.
    """
    stored = arrays.load_npz(file)
    try:
        header = json.loads(str(stored.pop("header")))
        if header["format"] != _FORMAT:
            raise ValueError(f"its format is {header['format']!r}")
        info, class_names = dataset_facts.from_entries(header["config"]["dataset"]["name"], header)
        config, step = manifest.saved_config(header), int(header["step"])
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{file}: not a network that jaxcifar exported ({error})") from error
    variables = traverse_util.unflatten_dict(stored, sep="/")
    variables = {"batch_stats": {}} | variables
    return Contents(config, step, info, class_names, variables, header["packed"])
