"""The mean and deviation by which a run's images are normalised, in its manifest."""

import dataclasses
from pathlib import Path

from jaxcifar.data.split import DatasetInfo
from jaxcifar.errors import InputError
from jaxcifar.resilience import manifest


def record(workdir: Path, info: DatasetInfo) -> None:
    """Writes mean and deviation to the manifest of the run in `workdir`."""
    entry = {"mean": info.mean, "std": info.std, "measured": info.is_measured}
    manifest.update(workdir, normalization=entry)


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
