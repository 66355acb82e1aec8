"""What a config may say: the checks before anything is loaded."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from jaxcifar import errors
from jaxcifar.config import default, durations
from jaxcifar.errors import InputError


def validate(config: ConfigDict) -> None:
    """Refuses a config that cannot be meant, before anything is loaded.

    Raises:
      InputError: naming the field, its value and what is allowed, for an unknown field or name, an
        impossible value, two durations where one is wanted, or a field without effect.
    """
    from jaxcifar import models  # here, as importing Flax takes a second that --help can do without
    from jaxcifar.augment import pipeline
    from jaxcifar.data import datasets

    defaults = default()
    _check_structure(config)
    for path, (allowed, is_allowed) in _ALLOWED.items():
        if not is_allowed(_get(config, path)):
            raise InputError(f"{path} = {_get(config, path)!r}: allowed is {allowed}")
    info = datasets.info(config.dataset)
    pipeline.create_policy(config.augment)
    takes = models.fields(config.model.name) | {"sync_batch_norm"}
    for field in config.model:
        if field not in takes and config.model[field] != defaults.model[field]:
            raise InputError(
                f"model.{field} = {config.model[field]!r} has no effect on {config.model.name}"
            )
    if config.dataset.name == "image_folder" and _uses_device_pipeline(config):
        raise InputError(
            "dataset.pipeline = 'device': a folder of images does not fit; allowed is auto or tf"
        )
    if config.eval.test_time_shift >= min(info.image_shape[:2]):
        raise InputError(
            f"eval.test_time_shift = {config.eval.test_time_shift}: it must be less than the "
            f"images' {info.image_shape[0]}x{info.image_shape[1]} pixels"
        )
    for field in ("crop_padding", "cutout_size"):
        if config.augment[field] > min(info.image_shape[:2]):
            raise InputError(
                f"augment.{field} = {config.augment[field]}: it must be no more than the images' "
                f"{info.image_shape[0]}x{info.image_shape[1]} pixels"
            )
    if config.dataset.validation_size > info.train_size - info.num_classes:
        raise InputError(
            f"dataset.validation_size = {config.dataset.validation_size}: {info.name} has "
            f"{info.train_size} training images; at least one a class must remain"
        )

    for one, other in _EITHER:
        if _get(config, one) and _get(config, other):
            raise InputError(
                f"{one} = {_get(config, one)!r} and {other} = {_get(config, other)!r} are both "
                f"set; set one of them to {_get(defaults, other)!r}"
            )
    if not (config.train.num_steps or config.train.num_epochs):
        raise InputError("train.num_steps or train.num_epochs must be above 0")
    schedule = config.schedule
    for name, field in ("multistep", "milestones"), ("step", "every"), ("warm_restarts", "cycle"):
        if schedule.name == name and not (
            schedule[f"{field}_steps"] or schedule[f"{field}_epochs"]
        ):
            raise InputError(f"schedule.name = {name!r} needs schedule.{field}_steps or _epochs")
    if config.train.batch_size % config.train.accumulation_steps:
        raise InputError(
            f"train.accumulation_steps = {config.train.accumulation_steps}: it must divide "
            f"train.batch_size = {config.train.batch_size}"
        )
    for path, (needs, is_used) in _USED_WITH.items():
        if _get(config, path) != _get(defaults, path) and not is_used(config):
            raise InputError(
                f"{path} = {_get(config, path)!r} has no effect here: it needs {needs}"
            )
    models.from_config(config, info.num_classes)
    durations(config, info.train_size - config.dataset.validation_size)


def _uses_device_pipeline(config: ConfigDict) -> bool:
    from jaxcifar.data import datasets  # here for the same reason

    return datasets.uses_device_pipeline(config.dataset)


def check_field(path: str) -> None:
    """Raises an InputError with the near names unless `path`, as train.seed, is a field."""
    config, section = default(), path.split(".")[0]
    if section not in config:
        raise errors.unknown("config section", section, config)
    fields = [f"{section}.{field}" for field in config[section]]
    if path not in fields:
        raise errors.unknown("config field", path, fields)


def _check_structure(config: ConfigDict) -> None:
    """Refuses a config that has not all the fields that there are, no others, and their types."""
    defaults = default()
    for section in config:
        if not isinstance(config[section], ConfigDict):
            raise InputError(f"{section} = {config[section]!r}: it must be a section of the config")
        for field in config[section]:
            check_field(f"{section}.{field}")
    for section, fields in defaults.items():
        missing = {field for field in fields if field not in config.get(section, {})}
        if missing:
            raise InputError(
                f"the config has no {section}.{min(missing)}; start from jaxcifar.config.default()"
            )
        for field, value in fields.items():
            found, kind = config[section][field], type(value)
            kinds = (int, float) if kind is float else kind
            if not isinstance(found, kinds) or isinstance(found, bool) is not (kind is bool):
                raise InputError(
                    f"{section}.{field} = {found!r}: allowed is a value of type {kind.__name__}"
                )


def _get(config: ConfigDict, path: str) -> Any:
    section, field = path.split(".")
    return config[section][field]


_Rule = tuple[str, Callable[[Any], bool]]


def _one_of(*names: str) -> _Rule:
    return f"one of {', '.join(names)}", lambda value: value in names


def _at_least(bound: float) -> _Rule:
    return f"{bound} or more", lambda value: bound <= value < float("inf")


def _from(low: float, high: float) -> _Rule:
    return f"from {low} to {high}", lambda value: low <= value <= high


def _above(bound: float) -> _Rule:
    return f"above {bound}", lambda value: bound < value < float("inf")


def _from_below(low: float, high: float) -> _Rule:
    return f"from {low} to below {high}", lambda value: low <= value < high


def _increasing(*types: type) -> _Rule:
    return (
        "increasing numbers above 0, such as (100, 150)",
        lambda values: all(
            isinstance(value, types) and before < value < float("inf")
            for value, before in zip(values, (0, *values), strict=False)
        ),
    )


def _is_groups(value: Any) -> bool:
    try:
        return all(
            isinstance(number, int | float) and isinstance(name, str)
            for probability, members in value
            for name, weight in members
            for number in (probability, weight)
        )
    except (TypeError, ValueError):
        return False


_SHARE = _from(0, 1)
_SECONDS = ("above 0 and no more than 1e6", lambda value: 0 < value <= 1e6)

_MAX_BATCH = 2**20  # so that a position within a call's batches has 32 bits

_ALLOWED: dict[str, _Rule] = {
    "dataset.validation_size": _at_least(0),
    "dataset.validation_seed": _from_below(0, 2**32),
    "dataset.pipeline": _one_of("auto", "device", "tf"),
    "dataset.labels": _one_of("fine", "coarse"),
    "dataset.image_size": _from(1, 4096),
    "dataset.on_bad_image": _one_of("error", "skip"),
    "augment.crop_padding": _at_least(0),
    "augment.crop_area": ("above 0 and no more than 1", lambda value: 0 < value <= 1),
    "augment.num_ops": _from(1, 100),
    "augment.magnitude": _from(0, 30),
    "augment.groups": (
        "((probability, ((name, weight), ...)), ...)",
        _is_groups,
    ),
    "augment.fill": _from(0, 255),
    "augment.cutout_size": _at_least(0),
    "augment.erasing_probability": _SHARE,
    "augment.mixup_alpha": _at_least(0),
    "augment.cutmix_alpha": _at_least(0),
    "augment.mix_probability": _SHARE,
    "augment.cutmix_share": _SHARE,
    "model.shortcut": _one_of("A", "B"),
    "model.stem": _one_of("cifar", "imagenet"),
    "model.depth": _from(0, 10_000),
    "model.norm": _one_of("batch", "group", "layer", "none"),
    "model.stochastic_depth": _from_below(0, 1),
    "model.ternary": _one_of("none", "twn", "ttq"),
    "model.ternary_scale": _one_of("layer", "filter"),
    "model.block_layers": (
        "numbers from 1 to 1000, such as (6, 12, 24, 16)",
        lambda values: all(isinstance(value, int) and 0 < value <= 1000 for value in values),
    ),
    "model.growth_rate": _from(0, 1000),
    "model.dropout_rate": _from_below(0, 1),
    "optimizer.name": _one_of("sgd", "sgdw", "adamw"),
    "optimizer.learning_rate": _above(0),
    "optimizer.learning_rate_batch_size": _at_least(0),
    "optimizer.momentum": _from_below(0, 1),
    "optimizer.beta1": _from_below(0, 1),
    "optimizer.beta2": _from_below(0, 1),
    "optimizer.epsilon": _above(0),
    "optimizer.clip_global_norm": _at_least(0),
    "optimizer.weight_decay": _at_least(0),
    "optimizer.weight_decay_on": _one_of("all", "kernels"),
    "schedule.name": _one_of(
        "constant", "step", "multistep", "cosine", "warm_restarts", "one_cycle", "triangular"
    ),
    "schedule.every_steps": _at_least(0),
    "schedule.every_epochs": _at_least(0),
    "schedule.cycle_steps": _at_least(0),
    "schedule.cycle_epochs": _at_least(0),
    "schedule.cycle_factor": _from(1, 1000),
    "schedule.initial_learning_rate": _at_least(0),
    "schedule.final_learning_rate": _at_least(0),
    "schedule.rise": ("above 0 and below 1", lambda value: 0 < value < 1),
    "schedule.restart_steps": _at_least(0),
    "schedule.restart_epochs": _at_least(0),
    "schedule.milestones_steps": _increasing(int),
    "schedule.milestones_epochs": _increasing(int, float),
    "schedule.gamma": ("above 0 and below 1", lambda value: 0 < value < 1),
    "schedule.warmup_steps": _at_least(0),
    "schedule.warmup_epochs": _at_least(0),
    "schedule.warmup_learning_rate": _at_least(0),
    "schedule.warmup_shape": _one_of("linear", "constant"),
    "train.num_steps": _at_least(0),
    "train.num_epochs": _at_least(0),
    "train.batch_size": _from(1, _MAX_BATCH),
    "train.precision": _one_of("float32", "bfloat16", "float16"),
    "train.steps_per_call": _from(0, 1000),
    "train.accumulation_steps": _at_least(1),
    "train.label_smoothing": _from_below(0, 1),
    "train.ema_decay": _from_below(0, 1),
    "train.early_stopping_patience": _at_least(0),
    "train.early_stopping_min_delta": _at_least(0),
    "train.on_nonfinite": _one_of("stop", "skip", "rollback"),
    "train.nonfinite_limit": _at_least(1),
    "train.rollback_factor": ("above 0 and below 1", lambda value: 0 < value < 1),
    "train.seed": _from_below(0, 2**32),
    "train.peer_timeout_seconds": _SECONDS,
    "eval.batch_size": _from(1, _MAX_BATCH),
    "eval.every_steps": _at_least(0),
    "eval.every_epochs": _at_least(0),
    "eval.best_metric": _one_of("accuracy", "loss"),
    "eval.test_time_shift": _at_least(0),
    "eval.checkpoint": (
        "latest, best or the number of a step",
        lambda value: value in ("latest", "best") or value.isdecimal(),
    ),
    "checkpoint.every_steps": _at_least(0),
    "checkpoint.every_epochs": _at_least(0),
    "checkpoint.keep_every_steps": _at_least(0),
    "checkpoint.keep_every_epochs": _at_least(0),
    "checkpoint.on_error": _one_of("stop", "continue"),
    "checkpoint.timeout_seconds": _SECONDS,
    "log.every_steps": _at_least(0),
    "log.every_epochs": _at_least(0),
    "log.layers_every_steps": _at_least(0),
    "log.layers_every_epochs": _at_least(0),
}

_EITHER = [
    ("train.num_steps", "train.num_epochs"),
    ("schedule.milestones_steps", "schedule.milestones_epochs"),
    ("schedule.every_steps", "schedule.every_epochs"),
    ("schedule.cycle_steps", "schedule.cycle_epochs"),
    ("schedule.restart_steps", "schedule.restart_epochs"),
    ("schedule.warmup_steps", "schedule.warmup_epochs"),
    ("eval.every_steps", "eval.every_epochs"),
    ("checkpoint.every_steps", "checkpoint.every_epochs"),
    ("checkpoint.keep_every_steps", "checkpoint.keep_every_epochs"),
    ("log.every_steps", "log.every_epochs"),
    ("log.layers_every_steps", "log.layers_every_epochs"),
]


_Use = tuple[str, Callable[[ConfigDict], bool]]


def _is(path: str, *names: str) -> _Use:
    wanted = " or ".join(map(repr, names))
    return f"{path} = {wanted}", lambda config: _get(config, path) in names


def _is_set(path: str, *others: str) -> _Use:
    wanted = " or ".join((path, *others))
    return f"{wanted} to be set", lambda config: any(_get(config, p) for p in (path, *others))


_DECAYS = _is_set("optimizer.weight_decay")
_MIXES = _is_set("augment.mixup_alpha", "augment.cutmix_alpha")
_VALIDATES = _is_set("dataset.validation_size")
_WARMS_UP = _is_set("schedule.warmup_steps", "schedule.warmup_epochs")
_WATCHES = _is_set("log.layers_every_steps", "log.layers_every_epochs")
_RESTARTS = (
    "a schedule.name other than 'constant', or a warm-up",
    lambda config: config.schedule.name != "constant" or _WARMS_UP[1](config),
)

# Field -> what it needs to have an effect, where it differs from its default.
_USED_WITH: dict[str, _Use] = {
    "dataset.data_dir": _is("dataset.name", "cifar10", "cifar100", "image_folder"),
    "dataset.labels": _is("dataset.name", "cifar100"),
    "augment.alternating_flip": (
        "the device pipeline and pipeline.horizontal_flip",
        lambda config: _uses_device_pipeline(config) and config.augment.horizontal_flip,
    ),
    "train.steps_per_call": ("the device pipeline", _uses_device_pipeline),
    "dataset.image_size": _is("dataset.name", "image_folder"),
    "dataset.on_bad_image": _is("dataset.name", "image_folder"),
    "dataset.validation_seed": _VALIDATES,
    "augment.crop_padding": (
        "a dataset.name other than 'image_folder', which has pipeline.crop_area",
        lambda config: config.dataset.name != "image_folder",
    ),
    "augment.crop_area": _is("dataset.name", "image_folder"),
    "augment.num_ops": _is("augment.policy", "randaugment"),
    "augment.magnitude": _is("augment.policy", "randaugment"),
    "augment.groups": _is("augment.policy", "one_of_groups"),
    "augment.fill": (
        "an pipeline.policy",
        lambda config: config.augment.policy != "none",
    ),
    "augment.mix_probability": _MIXES,
    "augment.cutmix_share": (
        "both pipeline.mixup_alpha and pipeline.cutmix_alpha",
        lambda config: bool(config.augment.mixup_alpha and config.augment.cutmix_alpha),
    ),
    "model.zero_init_residual": _is("model.norm", "batch", "group", "layer"),
    "model.ternary_scale": _is("model.ternary", "twn"),
    "model.sync_batch_norm": _is("model.norm", "batch"),
    "optimizer.momentum": _is("optimizer.name", "sgd", "sgdw"),
    "optimizer.nesterov": (
        "optimizer.name = 'sgd' or 'sgdw', and momentum above 0",
        lambda config: config.optimizer.name != "adamw" and config.optimizer.momentum > 0,
    ),
    "optimizer.beta1": _is("optimizer.name", "adamw"),
    "optimizer.beta2": _is("optimizer.name", "adamw"),
    "optimizer.epsilon": _is("optimizer.name", "adamw"),
    "optimizer.weight_decay_on": _DECAYS,
    "schedule.every_steps": _is("schedule.name", "step"),
    "schedule.every_epochs": _is("schedule.name", "step"),
    "schedule.milestones_steps": _is("schedule.name", "multistep"),
    "schedule.milestones_epochs": _is("schedule.name", "multistep"),
    "schedule.gamma": _is("schedule.name", "step", "multistep"),
    "schedule.cycle_steps": _is("schedule.name", "warm_restarts"),
    "schedule.cycle_epochs": _is("schedule.name", "warm_restarts"),
    "schedule.cycle_factor": _is("schedule.name", "warm_restarts"),
    "schedule.initial_learning_rate": _is("schedule.name", "one_cycle", "triangular"),
    "schedule.final_learning_rate": _is(
        "schedule.name", "cosine", "warm_restarts", "one_cycle", "triangular"
    ),
    "schedule.rise": _is("schedule.name", "one_cycle", "triangular"),
    "schedule.restart_steps": _RESTARTS,
    "schedule.restart_epochs": _RESTARTS,
    "schedule.warmup_learning_rate": _WARMS_UP,
    "schedule.warmup_shape": _WARMS_UP,
    "train.early_stopping_patience": _VALIDATES,
    "train.early_stopping_min_delta": _is_set("train.early_stopping_patience"),
    "train.nonfinite_limit": _is("train.on_nonfinite", "skip", "rollback"),
    "train.rollback_factor": _is("train.on_nonfinite", "rollback"),
    "train.peer_timeout_seconds": ("train.distributed", lambda config: config.train.distributed),
    "eval.best_metric": _VALIDATES,
    "log.histograms": (
        "log.layers_every_steps or _epochs, and log.tensorboard",
        lambda config: _WATCHES[1](config) and config.log.tensorboard,
    ),
}
