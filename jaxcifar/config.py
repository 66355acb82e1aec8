"""Every field a run has, its checks, and durations in steps.

A recipe (a file of `configs/`) takes `default()` and sets what differs. Durations come in pairs,
`..._steps` and `..._epochs`, of which at most one is set; an epoch is one pass over the training
split, `train_size / batch_size` steps, which need not be a whole number.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from jaxcifar import errors
from jaxcifar.errors import InputError


def default() -> ConfigDict:
    """Returns a locked config with every field at its default value."""
    config = ConfigDict()

    config.dataset = ConfigDict()
    config.dataset.name = "cifar10"  # cifar10, cifar100, digits (embedded) or fake (random images)
    config.dataset.data_dir = ""  # TFDS directory; "": $TFDS_DATA_DIR or ~/tensorflow_datasets
    config.dataset.validation_size = 0  # training images held out, stratified by class
    config.dataset.validation_seed = 0  # picks them, independently of train.seed

    config.augment = ConfigDict()
    config.augment.crop_padding = 4  # zero-pad by this many pixels and crop back at random; 0: off
    config.augment.horizontal_flip = True  # mirror every other image, at random

    config.model = ConfigDict()
    config.model.name = "resnet20"  # a registered name, see jaxcifar/models
    config.model.shortcut = "A"  # CIFAR ResNets where the shape changes: A zeros, B 1x1 convolution
    config.model.stem = "cifar"  # ResNet-18.., DenseNet: cifar 3x3, imagenet 7x7 and max-pooling
    config.model.depth = 0  # CIFAR ResNet 6n + 2, DenseNet-BC 6n + 4; 0: the named model's
    config.model.preactivation = False  # CIFAR ResNet: BatchNorm and ReLU before each convolution
    config.model.norm = "batch"  # ResNets: batch, group (16 channels), layer or none
    config.model.zero_init_residual = False  # ResNets: each block starts as the identity
    config.model.stochastic_depth = 0.0  # ResNets: chance that the last block is skipped
    config.model.ternary = "none"  # ResNets' weights: none, twn or ttq (first and last stay float)
    config.model.ternary_scale = "layer"  # twn: a threshold and scale for each layer or filter
    config.model.block_layers = ()  # DenseNet: layers of each block; (): the named model's
    config.model.growth_rate = 0  # DenseNet: channels that a layer adds; 0: the named model's
    config.model.dropout_rate = 0.0  # DenseNet: share of a layer's new features that are zeroed
    config.model.recompute = False  # DenseNet: less memory for a second forward pass
    config.model.sync_batch_norm = False  # batch statistics over all devices, not each its own

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # stochastic gradient descent with momentum
    config.optimizer.learning_rate = 0.1  # the peak; `schedule` varies it
    config.optimizer.momentum = 0.9  # share of the last update that the next one keeps
    config.optimizer.nesterov = False  # look ahead by the momentum
    config.optimizer.weight_decay = 1e-4  # added to the gradient, before momentum
    config.optimizer.weight_decay_on = "all"  # all parameters, or kernels (no bias, no BatchNorm)

    config.schedule = ConfigDict()
    config.schedule.name = "constant"  # constant or multistep
    config.schedule.milestones_steps = ()  # multistep: where the rate is multiplied by gamma
    config.schedule.milestones_epochs = ()  # the same, in epochs
    config.schedule.gamma = 0.1  # factor at each milestone
    config.schedule.warmup_steps = 0  # length of the warm-up; 0: none
    config.schedule.warmup_epochs = 0.0  # the same, in epochs
    config.schedule.warmup_learning_rate = 0.0  # at step 0
    config.schedule.warmup_shape = "linear"  # linear up to the peak, or constant until it ends

    config.train = ConfigDict()
    config.train.num_steps = 0  # length of the run; one of the two must be set
    config.train.num_epochs = 0.0  # the same, in epochs
    config.train.batch_size = 128  # over all devices and processes
    config.train.precision = "float32"  # of activations; bfloat16 keeps parameters in float32
    config.train.seed = 0  # initialisation, order of the data, augmentation
    config.train.distributed = False  # several processes, found by jax.distributed.initialize()

    config.eval = ConfigDict()
    config.eval.batch_size = 1000  # over all devices and processes
    config.eval.every_steps = 0  # both 0: once an epoch; the end is always evaluated
    config.eval.every_epochs = 0.0  # the same, in epochs
    config.eval.checkpoint = "latest"  # --mode eval: latest, best, or the number of a kept step

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 0  # both 0: once an epoch; the end is always saved
    config.checkpoint.every_epochs = 0.0  # the same, in epochs
    config.checkpoint.keep_every_steps = 0  # kept for good, beside latest and best; both 0: none
    config.checkpoint.keep_every_epochs = 0.0  # the same, in epochs

    config.log = ConfigDict()
    config.log.every_steps = 100  # a line, a CSV row and TensorBoard scalars of training
    config.log.tensorboard = True  # event files; needs TensorFlow

    return config.lock()


@dataclasses.dataclass(frozen=True)
class Durations:
    """The config's durations in steps; `keep_every` is 0 for never."""

    num_steps: int
    steps_per_epoch: float
    milestones: tuple[int, ...]
    warmup_steps: int
    eval_every: int
    checkpoint_every: int
    keep_every: int


def durations(config: ConfigDict, train_size: int) -> Durations:
    """Converts the config's epochs to steps, for `train_size` training images.

    Raises:
      InputError: if a milestone or the warm-up lies beyond the last step.
    """
    steps_per_epoch = train_size / config.train.batch_size

    def to_steps(section: str, name: str, default_epochs: float = 0.0) -> int:
        steps, epochs = config[section][f"{name}_steps"], config[section][f"{name}_epochs"]
        epochs = epochs or default_epochs
        return steps or (max(1, round(epochs * steps_per_epoch)) if epochs else 0)

    schedule = config.schedule
    result = Durations(
        num_steps=to_steps("train", "num"),
        steps_per_epoch=steps_per_epoch,
        milestones=tuple(schedule.milestones_steps)
        or tuple(round(e * steps_per_epoch) for e in schedule.milestones_epochs),
        warmup_steps=to_steps("schedule", "warmup"),
        eval_every=to_steps("eval", "every", default_epochs=1),
        checkpoint_every=to_steps("checkpoint", "every", default_epochs=1),
        keep_every=to_steps("checkpoint", "keep_every"),
    )
    ends = {"milestones": max(result.milestones, default=0), "warmup": result.warmup_steps}
    for field, step in ends.items():
        if step >= result.num_steps:
            raise InputError(
                f"schedule.{field}_steps or _epochs: step {step} must come before the end of "
                f"training, step {result.num_steps}"
            )
    return result


def validate(config: ConfigDict) -> None:
    """Refuses a config that cannot be meant, before anything is loaded.

    Raises:
      InputError: naming the field, its value and what is allowed, for an unknown field or name, an
        impossible value, two durations where one is wanted, or a field without effect.
    """
    from jaxcifar import models  # here, as importing Flax takes a second that --help can do without
    from jaxcifar.data import datasets

    defaults = default()
    for section in config:
        for field in config[section]:
            check_field(f"{section}.{field}")
    for path, (allowed, is_allowed) in _ALLOWED.items():
        if not is_allowed(_get(config, path)):
            raise InputError(f"{path} = {_get(config, path)!r}: allowed is {allowed}")
    info = datasets.info(config.dataset.name)
    takes = models.fields(config.model.name) | {"sync_batch_norm"}
    for field in config.model:
        if field not in takes and config.model[field] != defaults.model[field]:
            raise InputError(
                f"model.{field} = {config.model[field]!r} has no effect on {config.model.name}"
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
    milestones = config.schedule.milestones_steps or config.schedule.milestones_epochs
    if _multistep(config) and not milestones:
        raise InputError(
            "schedule.name = 'multistep' needs schedule.milestones_steps or milestones_epochs"
        )
    for path, (needs, is_used) in _USED_WITH.items():
        if _get(config, path) != _get(defaults, path) and not is_used(config):
            raise InputError(
                f"{path} = {_get(config, path)!r} has no effect here: it needs {needs}"
            )
    models.from_config(config, info.num_classes)
    durations(config, info.train_size - config.dataset.validation_size)


def check_field(path: str) -> None:
    """Raises an InputError with the near names unless `path`, as train.seed, is a field."""
    config, section = default(), path.split(".")[0]
    if section not in config:
        raise errors.unknown("config section", section, config)
    fields = [f"{section}.{field}" for field in config[section]]
    if path not in fields:
        raise errors.unknown("config field", path, fields)


def _get(config: ConfigDict, path: str) -> Any:
    section, field = path.split(".")
    return config[section][field]


_Rule = tuple[str, Callable[[Any], bool]]


def _one_of(*names: str) -> _Rule:
    return f"one of {', '.join(names)}", lambda value: value in names


def _at_least(bound: float) -> _Rule:
    return f"{bound} or more", lambda value: bound <= value < float("inf")


def _above(bound: float) -> _Rule:
    return f"above {bound}", lambda value: bound < value < float("inf")


def _from_below(low: float, high: float) -> _Rule:
    return f"from {low} to below {high}", lambda value: low <= value < high


def _increasing(*types: type) -> _Rule:
    return (
        "increasing numbers above 0, such as (100, 150)",
        lambda values: all(
            isinstance(value, types) and value > before
            for value, before in zip(values, (0, *values), strict=False)
        ),
    )


_ALLOWED: dict[str, _Rule] = {
    "dataset.validation_size": _at_least(0),
    "dataset.validation_seed": _from_below(0, 2**32),
    "augment.crop_padding": _at_least(0),
    "model.shortcut": _one_of("A", "B"),
    "model.stem": _one_of("cifar", "imagenet"),
    "model.depth": _at_least(0),
    "model.norm": _one_of("batch", "group", "layer", "none"),
    "model.stochastic_depth": _from_below(0, 1),
    "model.ternary": _one_of("none", "twn", "ttq"),
    "model.ternary_scale": _one_of("layer", "filter"),
    "model.block_layers": (
        "numbers above 0, such as (6, 12, 24, 16)",
        lambda values: all(isinstance(value, int) and value > 0 for value in values),
    ),
    "model.growth_rate": _at_least(0),
    "model.dropout_rate": _from_below(0, 1),
    "optimizer.name": _one_of("sgd"),
    "optimizer.learning_rate": _above(0),
    "optimizer.momentum": _from_below(0, 1),
    "optimizer.weight_decay": _at_least(0),
    "optimizer.weight_decay_on": _one_of("all", "kernels"),
    "schedule.name": _one_of("constant", "multistep"),
    "schedule.milestones_steps": _increasing(int),
    "schedule.milestones_epochs": _increasing(int, float),
    "schedule.gamma": ("above 0 and below 1", lambda value: 0 < value < 1),
    "schedule.warmup_steps": _at_least(0),
    "schedule.warmup_epochs": _at_least(0),
    "schedule.warmup_learning_rate": _at_least(0),
    "schedule.warmup_shape": _one_of("linear", "constant"),
    "train.num_steps": _at_least(0),
    "train.num_epochs": _at_least(0),
    "train.batch_size": _at_least(1),
    "train.precision": _one_of("float32", "bfloat16"),
    "train.seed": _from_below(0, 2**32),
    "eval.batch_size": _at_least(1),
    "eval.every_steps": _at_least(0),
    "eval.every_epochs": _at_least(0),
    "eval.checkpoint": (
        "latest, best or the number of a step",
        lambda value: value in ("latest", "best") or value.isdecimal(),
    ),
    "checkpoint.every_steps": _at_least(0),
    "checkpoint.every_epochs": _at_least(0),
    "checkpoint.keep_every_steps": _at_least(0),
    "checkpoint.keep_every_epochs": _at_least(0),
    "log.every_steps": _at_least(1),
}

_EITHER = [
    ("train.num_steps", "train.num_epochs"),
    ("schedule.milestones_steps", "schedule.milestones_epochs"),
    ("schedule.warmup_steps", "schedule.warmup_epochs"),
    ("eval.every_steps", "eval.every_epochs"),
    ("checkpoint.every_steps", "checkpoint.every_epochs"),
    ("checkpoint.keep_every_steps", "checkpoint.keep_every_epochs"),
]


def _multistep(config: ConfigDict) -> bool:
    return config.schedule.name == "multistep"


def _warmup(config: ConfigDict) -> bool:
    return bool(config.schedule.warmup_steps or config.schedule.warmup_epochs)


# Field -> what it needs to have an effect, where it differs from its default.
_USED_WITH: dict[str, tuple[str, Callable[[ConfigDict], bool]]] = {
    "dataset.data_dir": (
        "a dataset.name that is read from files",
        lambda config: config.dataset.name.startswith("cifar"),
    ),
    "dataset.validation_seed": (
        "dataset.validation_size above 0",
        lambda config: config.dataset.validation_size > 0,
    ),
    "model.zero_init_residual": (
        "model.norm other than 'none'",
        lambda config: config.model.norm != "none",
    ),
    "model.ternary_scale": (
        "model.ternary = 'twn'",
        lambda config: config.model.ternary == "twn",
    ),
    "model.sync_batch_norm": (
        "model.norm = 'batch'",
        lambda config: config.model.norm == "batch",
    ),
    "optimizer.nesterov": (
        "optimizer.momentum above 0",
        lambda config: config.optimizer.momentum > 0,
    ),
    "optimizer.weight_decay_on": (
        "optimizer.weight_decay above 0",
        lambda config: config.optimizer.weight_decay > 0,
    ),
    "schedule.milestones_steps": ("schedule.name = 'multistep'", _multistep),
    "schedule.milestones_epochs": ("schedule.name = 'multistep'", _multistep),
    "schedule.gamma": ("schedule.name = 'multistep'", _multistep),
    "schedule.warmup_learning_rate": ("schedule.warmup_steps or warmup_epochs", _warmup),
    "schedule.warmup_shape": ("schedule.warmup_steps or warmup_epochs", _warmup),
}
