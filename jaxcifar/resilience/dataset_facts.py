"""What a trained network needs to know of its data set, in the manifest of its run.

That is how images are normalised, their shape, and the names of the classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxcifar.data import datasets
from jaxcifar.data.split import DatasetInfo
from jaxcifar.errors import InputError
from jaxcifar.resilience import manifest


def record(workdir: Path, info: DatasetInfo, class_names: Sequence[str]) -> None:
    """Writes the facts to the manifest of the run in `workdir`."""
    manifest.update(workdir, **as_entries(info, class_names))


def as_entries(info: DatasetInfo, class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns the facts as the entries of a manifest."""
    return {
        "normalization": {"mean": info.mean, "std": info.std, "measured": info.is_measured},
        "images": {"shape": info.image_shape, "class_names": list(class_names)},
    }


def from_entries(
    name: str, entries: Mapping[str, dict[str, Any]]
) -> tuple[DatasetInfo, tuple[str, ...]]:
    """Returns the facts and class names in the entries of a manifest; sizes of splits are 0."""
    images, normalization = entries["images"], entries["normalization"]
    info = DatasetInfo(
        name,
        image_shape=tuple(images["shape"]),
        num_classes=len(images["class_names"]),
        train_size=0,
        test_size=0,
        mean=tuple(normalization["mean"]),
        std=tuple(normalization["std"]),
        is_measured=normalization["measured"],
    )
    return info, tuple(images["class_names"])


def with_recorded(workdir: Path, info: DatasetInfo) -> DatasetInfo:
    """Returns facts with the mean and deviation that the run in `workdir` was started with.

    This concerns measured ones only; what the config sets, and published constants, are kept.

    Raises:
      InputError: if the manifest has another number of channels.
    """
    recorded = manifest.read(workdir).get("normalization", {})
    if not (info.is_measured and recorded.get("measured")):
        return info
    mean, std = (tuple(recorded.get(name, ())) for name in ("mean", "std"))
    if not len(mean) == len(std) == len(info.mean):
        raise InputError(
            f"{workdir} was trained on images of {len(mean)} channels, and these have "
            f"{len(info.mean)}; set dataset.channels or dataset.data_dir to those of the run"
        )
    return dataclasses.replace(info, mean=mean, std=std)


def recorded(workdir: Path, dataset: ConfigDict) -> tuple[DatasetInfo, tuple[str, ...]]:
    """Returns the facts and class names of the run in `workdir`, if recorded without its data.

    The sizes of its splits are 0. The manifests of earlier versions have no class names: the facts
    are then taken from the data set itself.

    Raises:
      InputError: if the facts are neither recorded nor known.
    """
    run = manifest.read(workdir)
    if "images" not in run:
        return with_recorded(workdir, datasets.info(dataset)), datasets.class_names(dataset)
    return from_entries(dataset.name, run)
