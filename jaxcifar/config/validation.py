"""Config validation, run before any data is loaded."""

import importlib.util
import re
import shlex

from ml_collections import ConfigDict

from jaxcifar import errors, models
from jaxcifar.augment import pipeline
from jaxcifar.config.durations import durations
from jaxcifar.config.fields import DURATIONS, FIELDS
from jaxcifar.config.rules import get
from jaxcifar.config.structure import check_structure
from jaxcifar.data import datasets
from jaxcifar.data.datasets import DatasetInfo
from jaxcifar.errors import InputError


def validate(config: ConfigDict, *, trains: bool = True) -> None:
    """Checks that a config is valid.

    Args:
      config: see `config.default`.
      trains: whether training batches or logs will be made, for which TensorFlow may be needed.

    Raises:
      InputError: naming the field, its value and the allowed ones, for an unknown field or name, an
        invalid value, two durations where one is expected, or a field without effect.
    """
    check_structure(config)
    _check_values(config)
    info = datasets.info(config.dataset)
    pipeline.create_policy(config.augment)
    _check_model_fields(config)
    _check_sizes(config, info)
    _check_validation_size(config, info)
    _check_pairs(config)
    _check_required(config)
    _check_accumulation(config)
    _check_effects(config)
    _check_model(config, info)
    _check_smallest_image(config, info)
    _check_tensorflow(config, trains)
    durations(config, info.train_size - config.dataset.validation_size)


def _check_values(config: ConfigDict) -> None:
    for path, field in FIELDS.items():
        value = get(config, path)
        if field.allowed and not field.allowed.allows(value):
            raise InputError(f"{path} = {value!r}: must be {field.allowed.text}")


def _check_model_fields(config: ConfigDict) -> None:
    """Refuses fields of other networks."""
    used = models.fields(config.model.name) | {"sync_batch_norm"}
    for name, value in config.model.items():
        if name not in used and value != FIELDS[f"model.{name}"].default:
            raise InputError(f"model.{name} = {value!r} has no effect on {config.model.name}")


def _check_model(config: ConfigDict, info: DatasetInfo) -> None:
    """Builds the model, which checks its fields."""
    try:
        models.from_config(config, info.num_classes)
    except InputError as error:
        names = "|".join(models.fields(config.model.name))
        raise InputError(re.sub(rf"\b({names}) =", r"model.\1 =", str(error))) from error
    if config.train.selector not in {"none", *models.registered}:
        raise errors.unknown("train.selector", config.train.selector, models.registered)


def _check_tensorflow(config: ConfigDict, trains: bool) -> None:
    """Refuses what needs TensorFlow if it is not installed."""
    streams = not datasets.uses_device_pipeline(config.dataset)
    needs = {
        "dataset.name = 'image_folder' without dataset.pipeline = 'device'": (
            config.dataset.name == "image_folder" and streams
        ),
        "dataset.pipeline = 'tf'": trains and config.dataset.pipeline == "tf",
        "log.histograms = True": trains and config.log.histograms,
    }
    needing = [field for field, is_set in needs.items() if is_set]
    if needing and importlib.util.find_spec("tensorflow") is None:
        raise InputError(f"{needing[0]} needs TensorFlow: pip install 'jaxcifar[tf]'")


def _check_sizes(config: ConfigDict, info: DatasetInfo) -> None:
    """Refuses lengths in pixels that the images do not have."""
    height, width = info.image_shape[:2]
    limits = {
        "eval.test_time_shift": min(height, width) - 1,
        "augment.crop_padding": min(height, width)
        - (config.augment.crop_padding_mode == "reflect"),
        "augment.cutout_size": min(height, width),
    }
    for path, limit in limits.items():
        if (value := get(config, path)) > limit:
            raise InputError(
                f"{path} = {value}: must be at most {limit} for images of {height}x{width} pixels"
            )


def _check_smallest_image(config: ConfigDict, info: DatasetInfo) -> None:
    """Refuses images that are too small for the network."""
    model = models.from_config(config, info.num_classes)
    size, smallest = info.image_shape[0], getattr(model, "smallest_image", 1)
    if size < smallest:
        stem = f" with model.stem = {config.model.stem!r}" if hasattr(model, "stem") else ""
        resizes = FIELDS["dataset.image_size"].only_if.holds(config)
        field = "dataset.image_size" if resizes else f"dataset.name = {config.dataset.name!r}"
        raise InputError(
            f"{field}: images of {size}x{size} pixels are too small for model.name = "
            f"{config.model.name!r}{stem}, which needs at least {smallest}x{smallest}"
        )


def _check_validation_size(config: ConfigDict, info: DatasetInfo) -> None:
    if (size := config.dataset.validation_size) > info.train_size - info.num_classes:
        raise InputError(
            f"dataset.validation_size = {size}: must leave at least one image per class of the "
            f"{info.train_size} training images of {info.name}"
        )


def _check_pairs(config: ConfigDict) -> None:
    """Refuses a duration that is set in steps and in epochs."""

    def unset(path: str) -> str:
        return shlex.quote(f"--config.{path}={FIELDS[path].default}")

    for path in DURATIONS:
        steps, epochs = f"{path}_steps", f"{path}_epochs"
        if get(config, steps) and get(config, epochs):
            raise InputError(
                f"{steps} = {get(config, steps)!r} and {epochs} = {get(config, epochs)!r} are both "
                f"set; unset one of them with {unset(steps)} or {unset(epochs)}"
            )


def _check_required(config: ConfigDict) -> None:
    """Refuses a config without a length, or with a schedule that lacks its own."""
    if not (config.train.num_steps or config.train.num_epochs):
        raise InputError(
            "the run has no length: set --config.train.num_steps or --config.train.num_epochs"
        )
    schedule = config.schedule
    needed = {"multistep": "milestones", "step": "step_every", "warm_restarts": "cycle"}
    name = needed.get(schedule.name)
    if name and not (schedule[f"{name}_steps"] or schedule[f"{name}_epochs"]):
        raise InputError(
            f"schedule.name = {schedule.name!r}: set --config.schedule.{name}_steps or "
            f"--config.schedule.{name}_epochs"
        )


def _check_accumulation(config: ConfigDict) -> None:
    train = config.train
    steps, batch_size = train.accumulation_steps, train.batch_size
    if batch_size % steps:
        raise InputError(
            f"train.accumulation_steps = {steps}: must divide train.batch_size = {batch_size}"
        )
    if train.selector != "none":
        kept = round(train.selector_keep * batch_size)
        if not kept or kept % steps:
            raise InputError(
                f"train.selector_keep = {train.selector_keep}: keeps {kept} of {batch_size} "
                "images; must keep some, and a multiple of train.accumulation_steps = "
                f"{steps}"
            )


def _check_effects(config: ConfigDict) -> None:
    """Refuses a field that differs from its default where it has no effect."""
    for path, field in FIELDS.items():
        value = get(config, path)
        if field.only_if and value != field.default and not field.only_if.holds(config):
            raise InputError(
                f"{path} = {value!r} has no effect: it is used only if {field.only_if.text}"
            )
