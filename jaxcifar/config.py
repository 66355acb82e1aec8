"""Every field a run has, its checks, and durations in steps.

A recipe (a file of `configs/`) takes `default()` and sets what differs. Durations come in pairs,
`..._steps` and `..._epochs`, of which at most one is set; an epoch is one pass over the training
split, `train_size / batch_size` steps, which need not be a whole number.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxcifar import errors
from jaxcifar.errors import InputError


def default() -> ConfigDict:
    """Returns a locked config with every field at its default value."""
    config = ConfigDict()

    config.dataset = ConfigDict()
    config.dataset.name = "cifar10"  # cifar10, cifar100, image_folder, digits (embedded) or fake
    config.dataset.data_dir = ""  # image_folder's; or TFDS's: $TFDS_DATA_DIR, ~/tensorflow_datasets
    config.dataset.pipeline = "auto"  # device: the split lies on it; tf: tf.data; auto: device
    # for what fits, all but image_folder
    config.dataset.labels = "fine"  # cifar100: fine, 100 classes, or coarse, 20
    config.dataset.image_size = 224  # image_folder: height and width of the network's input
    config.dataset.on_bad_image = "error"  # image_folder: error, or skip what cannot be decoded
    config.dataset.validation_size = 0  # training images held out, stratified by class
    config.dataset.validation_seed = 0  # picks them, independently of train.seed

    config.augment = ConfigDict()
    config.augment.crop_padding = 4  # zero-pad by this many pixels and crop back at random; 0: off
    config.augment.crop_area = 0.08  # image_folder: least share of the image in a random crop
    config.augment.horizontal_flip = True  # mirror every other image, at random
    config.augment.alternating_flip = False  # device: mirror each image every other epoch instead
    config.augment.policy = "none"  # autoaugment_cifar10, autoaugment_imagenet, randaugment,
    # trivialaugment (wide) or one_of_groups
    config.augment.num_ops = 2  # randaugment: operations an image
    config.augment.magnitude = 9  # randaugment: their strength, from 0 to 30
    config.augment.groups = ()  # one_of_groups: ((probability, ((name, weight), ...)), ...); ():
    # colour jitter, grey, CLAHE; coarse dropout, grid distortion, elastic transform
    config.augment.fill = 0  # grey level of what a policy's operation moves into the image
    config.augment.cutout_size = 0  # side in pixels of a square set to the mean; 0: off
    config.augment.erasing_probability = 0.0  # chance that a random rectangle is set to the mean
    config.augment.mixup_alpha = 0.0  # MixUp's beta distribution; 0: off
    config.augment.cutmix_alpha = 0.0  # CutMix's beta distribution; 0: off
    config.augment.mix_probability = 1.0  # chance that a batch is mixed
    config.augment.cutmix_share = 0.5  # of the mixed batches, if both are on

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
    config.optimizer.name = "sgd"  # sgd, sgdw (sgd with decoupled decay) or adamw
    config.optimizer.learning_rate = 0.1  # the peak; `schedule` varies it
    config.optimizer.learning_rate_batch_size = 0  # batch size that learning_rate is for, and
    # from which it grows in proportion; 0: it is for train.batch_size
    config.optimizer.momentum = 0.9  # sgd, sgdw: share of the last update that the next one keeps
    config.optimizer.nesterov = False  # sgd, sgdw: look ahead by the momentum
    config.optimizer.beta1 = 0.9  # adamw: decay of the gradients' mean
    config.optimizer.beta2 = 0.999  # adamw: decay of their squares' mean
    config.optimizer.epsilon = 1e-8  # adamw: added to the root of that
    config.optimizer.weight_decay = 1e-4  # sgd: added to the gradient; sgdw, adamw: to the update
    config.optimizer.weight_decay_on = "all"  # all parameters, or kernels (no bias, no BatchNorm)
    config.optimizer.clip_global_norm = 0.0  # longest gradient; longer ones are scaled; 0: off

    config.schedule = ConfigDict()
    config.schedule.name = "constant"  # constant, step, multistep, cosine, warm_restarts,
    # one_cycle or triangular
    config.schedule.every_steps = 0  # step: how often the rate is multiplied by gamma
    config.schedule.every_epochs = 0.0  # the same, in epochs
    config.schedule.milestones_steps = ()  # multistep: where the rate is multiplied by gamma
    config.schedule.milestones_epochs = ()  # the same, in epochs
    config.schedule.gamma = 0.1  # step, multistep: the factor
    config.schedule.cycle_steps = 0  # warm_restarts: length of the first cycle (T_0)
    config.schedule.cycle_epochs = 0.0  # the same, in epochs
    config.schedule.cycle_factor = 1.0  # warm_restarts: of each cycle's length to the last (T_mult)
    config.schedule.initial_learning_rate = 0.0  # one_cycle, triangular: at step 0
    config.schedule.final_learning_rate = 0.0  # cosine, warm_restarts, one_cycle, triangular
    config.schedule.rise = 0.3  # one_cycle, triangular: share of the steps before the peak
    config.schedule.restart_steps = 0  # begin the whole schedule anew so often; 0: never
    config.schedule.restart_epochs = 0.0  # the same, in epochs
    config.schedule.warmup_steps = 0  # length of the warm-up; 0: none
    config.schedule.warmup_epochs = 0.0  # the same, in epochs
    config.schedule.warmup_learning_rate = 0.0  # at step 0
    config.schedule.warmup_shape = "linear"  # linear up to the peak, or constant until it ends

    config.train = ConfigDict()
    config.train.num_steps = 0  # length of the run; one of the two must be set
    config.train.num_epochs = 0.0  # the same, in epochs
    config.train.batch_size = 128  # over all devices and processes
    config.train.precision = "float32"  # of activations: float32, bfloat16, or float16, with a
    # loss scale that adapts; parameters are float32
    config.train.steps_per_call = 0  # device: steps in one compiled call; 0: 1 on a CPU, else 100
    config.train.accumulation_steps = 1  # parts of a batch whose gradients are added up
    config.train.label_smoothing = 0.0  # share of a target spread over all classes
    config.train.ema_decay = 0.0  # of a moving average of the weights, evaluated too; 0: off
    config.train.early_stopping_patience = 0  # evaluations without improvement; 0: off
    config.train.early_stopping_min_delta = 0.0  # what counts as one
    config.train.seed = 0  # initialisation, order of the data, augmentation
    config.train.distributed = False  # several processes, found by jax.distributed.initialize()

    config.eval = ConfigDict()
    config.eval.batch_size = 1000  # over all devices and processes
    config.eval.every_steps = 0  # both 0: once an epoch; the end is always evaluated
    config.eval.every_epochs = 0.0  # the same, in epochs
    config.eval.best_metric = "accuracy"  # of the validation split: accuracy or loss
    config.eval.test_time_flip = False  # average predictions over the image and its mirror image
    config.eval.test_time_shift = 0  # and over copies shifted by so many pixels; 0: off
    config.eval.checkpoint = "latest"  # --mode eval: latest, best, or the number of a kept step

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 0  # both 0: once an epoch; the end is always saved
    config.checkpoint.every_epochs = 0.0  # the same, in epochs
    config.checkpoint.keep_every_steps = 0  # kept for good, beside latest and best; both 0: none
    config.checkpoint.keep_every_epochs = 0.0  # the same, in epochs

    config.log = ConfigDict()
    config.log.every_steps = 100  # a line, a CSV row and TensorBoard scalars of training
    config.log.layers_every_steps = 0  # each layer's gradient, weights and update; 0: off
    config.log.histograms = False  # of weights and gradients to TensorBoard, at the same steps
    config.log.tensorboard = True  # event files; needs TensorFlow

    return config.lock()


def form(config: ConfigDict, argument: str) -> ConfigDict:
    """Returns a recipe in the form that its argument names: "" as it is, or "smoke".

    The smoke form takes 20 steps of 16 random images through all that the recipe switches on, with
    durations in proportion, and DenseNets of few layers: minutes on a CPU, without any data.

    Raises:
      InputError: for another argument.
    """
    if argument not in ("", "smoke"):
        raise errors.unknown("form of the recipe", argument, ["smoke"])
    if not argument:
        return config
    steps, schedule = 20, config.schedule
    unit = "steps" if config.train.num_steps else "epochs"
    share = steps / config.train[f"num_{unit}"]
    for name in ("warmup", "every", "cycle", "restart"):
        if length := schedule[f"{name}_{unit}"]:
            schedule[f"{name}_{unit}"] *= 0
            schedule[f"{name}_steps"] = max(1, round(length * share))
    if milestones := schedule[f"milestones_{unit}"]:
        schedule[f"milestones_{unit}"] = ()
        schedule.milestones_steps = tuple(round(milestone * share) for milestone in milestones)

    if config.dataset.validation_size:
        config.dataset.validation_size = 100
    for field in ("data_dir", "labels", "image_size", "on_bad_image"):
        config.dataset[field] = default().dataset[field]
    config.dataset.name = "fake"
    if config.model.name.startswith("densenet_bc"):
        config.model.depth = 16
    elif config.model.name.startswith("densenet"):
        config.model.block_layers = (2, 2, 2, 2)
    config.train.num_steps, config.train.num_epochs = steps, 0.0
    config.train.batch_size = 16
    config.checkpoint.keep_every_epochs = 0.0
    config.log.every_steps = 5
    return config


@dataclasses.dataclass(frozen=True)
class Durations:
    """The config's durations in steps; 0 is never, and `length` that of the schedule."""

    num_steps: int
    steps_per_epoch: float
    milestones: tuple[int, ...]
    warmup_steps: int
    step_every: int
    cycle: int
    length: int
    eval_every: int
    checkpoint_every: int
    keep_every: int
    log_every: int
    watch_every: int

    def due(self, step: int) -> "Due":
        """Returns what is to be done once `step` updates have been made."""
        last = step == self.num_steps

        def is_due(*intervals: int) -> bool:
            return any(interval and step % interval == 0 for interval in intervals)

        return Due(
            log=last or is_due(self.log_every),
            watch=is_due(self.watch_every),
            evaluate=last or is_due(self.eval_every),
            save=last or is_due(self.checkpoint_every, self.keep_every),
        )

    def next_due(self, step: int) -> int:
        """Returns the next step after which something is to be done."""
        intervals = (
            self.log_every,
            self.watch_every,
            self.eval_every,
            self.checkpoint_every,
            self.keep_every,
        )
        steps = [(step // interval + 1) * interval for interval in intervals if interval]
        return min(*steps, self.num_steps)


class Due(NamedTuple):
    """What is to be done after a step."""

    log: bool
    watch: bool
    evaluate: bool
    save: bool


def durations(config: ConfigDict, train_size: int) -> Durations:
    """Converts the config's epochs to steps, for `train_size` training images.

    Raises:
      InputError: if a milestone or the warm-up lies beyond the schedule's last step.
    """
    steps_per_epoch = train_size / config.train.batch_size

    def to_steps(section: str, name: str, default_epochs: float = 0.0) -> int:
        steps, epochs = config[section][f"{name}_steps"], config[section][f"{name}_epochs"]
        epochs = epochs or default_epochs
        return steps or (max(1, round(epochs * steps_per_epoch)) if epochs else 0)

    schedule = config.schedule
    num_steps = to_steps("train", "num")
    result = Durations(
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        milestones=tuple(schedule.milestones_steps)
        or tuple(round(e * steps_per_epoch) for e in schedule.milestones_epochs),
        warmup_steps=to_steps("schedule", "warmup"),
        step_every=to_steps("schedule", "every"),
        cycle=to_steps("schedule", "cycle"),
        length=to_steps("schedule", "restart") or num_steps,
        eval_every=to_steps("eval", "every", default_epochs=1),
        checkpoint_every=to_steps("checkpoint", "every", default_epochs=1),
        keep_every=to_steps("checkpoint", "keep_every"),
        log_every=config.log.every_steps,
        watch_every=config.log.layers_every_steps,
    )
    ends = {"milestones": max(result.milestones, default=0), "warmup": result.warmup_steps}
    for field, step in ends.items():
        if step >= result.length:
            raise InputError(
                f"schedule.{field}_steps or _epochs: step {step} must come before the end of "
                f"the schedule, step {result.length}"
            )
    return result


def validate(config: ConfigDict) -> None:
    """Refuses a config that cannot be meant, before anything is loaded.

    Raises:
      InputError: naming the field, its value and what is allowed, for an unknown field or name, an
        impossible value, two durations where one is wanted, or a field without effect.
    """
    from jaxcifar import models  # here, as importing Flax takes a second that --help can do without
    from jaxcifar.data import augment, datasets

    defaults = default()
    for section in config:
        for field in config[section]:
            check_field(f"{section}.{field}")
    for path, (allowed, is_allowed) in _ALLOWED.items():
        if not is_allowed(_get(config, path)):
            raise InputError(f"{path} = {_get(config, path)!r}: allowed is {allowed}")
    info = datasets.info(config.dataset)
    augment.create_policy(config.augment)
    takes = models.fields(config.model.name) | {"sync_batch_norm"}
    for field in config.model:
        if field not in takes and config.model[field] != defaults.model[field]:
            raise InputError(
                f"model.{field} = {config.model[field]!r} has no effect on {config.model.name}"
            )
    if config.dataset.name == "image_folder" and uses_device_pipeline(config):
        raise InputError(
            "dataset.pipeline = 'device': a folder of images does not fit; allowed is auto or tf"
        )
    if config.eval.test_time_shift >= min(info.image_shape[:2]):
        raise InputError(
            f"eval.test_time_shift = {config.eval.test_time_shift}: it must be less than the "
            f"images' {info.image_shape[0]}x{info.image_shape[1]} pixels"
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


def uses_device_pipeline(config: ConfigDict) -> bool:
    """Returns whether the training images lie on the device."""
    if config.dataset.pipeline == "auto":
        return config.dataset.name != "image_folder"
    return config.dataset.pipeline == "device"


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


_SHARE: _Rule = "from 0 to 1", lambda value: 0 <= value <= 1

_ALLOWED: dict[str, _Rule] = {
    "dataset.validation_size": _at_least(0),
    "dataset.validation_seed": _from_below(0, 2**32),
    "dataset.pipeline": _one_of("auto", "device", "tf"),
    "dataset.labels": _one_of("fine", "coarse"),
    "dataset.image_size": _at_least(1),
    "dataset.on_bad_image": _one_of("error", "skip"),
    "augment.crop_padding": _at_least(0),
    "augment.crop_area": ("above 0 and no more than 1", lambda value: 0 < value <= 1),
    "augment.num_ops": _at_least(1),
    "augment.magnitude": ("from 0 to 30", lambda value: 0 <= value <= 30),
    "augment.fill": ("from 0 to 255", lambda value: 0 <= value <= 255),
    "augment.cutout_size": _at_least(0),
    "augment.erasing_probability": _SHARE,
    "augment.mixup_alpha": _at_least(0),
    "augment.cutmix_alpha": _at_least(0),
    "augment.mix_probability": _SHARE,
    "augment.cutmix_share": _SHARE,
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
    "schedule.cycle_factor": _at_least(1),
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
    "train.batch_size": _at_least(1),
    "train.precision": _one_of("float32", "bfloat16", "float16"),
    "train.steps_per_call": _at_least(0),
    "train.accumulation_steps": _at_least(1),
    "train.label_smoothing": _from_below(0, 1),
    "train.ema_decay": _from_below(0, 1),
    "train.early_stopping_patience": _at_least(0),
    "train.early_stopping_min_delta": _at_least(0),
    "train.seed": _from_below(0, 2**32),
    "eval.batch_size": _at_least(1),
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
    "log.every_steps": _at_least(1),
    "log.layers_every_steps": _at_least(0),
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

# Field -> what it needs to have an effect, where it differs from its default.
_USED_WITH: dict[str, _Use] = {
    "dataset.data_dir": _is("dataset.name", "cifar10", "cifar100", "image_folder"),
    "dataset.labels": _is("dataset.name", "cifar100"),
    "augment.alternating_flip": (
        "the device pipeline and augment.horizontal_flip",
        lambda config: uses_device_pipeline(config) and config.augment.horizontal_flip,
    ),
    "train.steps_per_call": ("the device pipeline", lambda config: uses_device_pipeline(config)),
    "dataset.image_size": _is("dataset.name", "image_folder"),
    "dataset.on_bad_image": _is("dataset.name", "image_folder"),
    "dataset.validation_seed": _VALIDATES,
    "augment.crop_padding": (
        "a dataset.name other than 'image_folder', which has augment.crop_area",
        lambda config: config.dataset.name != "image_folder",
    ),
    "augment.crop_area": _is("dataset.name", "image_folder"),
    "augment.num_ops": _is("augment.policy", "randaugment"),
    "augment.magnitude": _is("augment.policy", "randaugment"),
    "augment.groups": _is("augment.policy", "one_of_groups"),
    "augment.fill": (
        "an augment.policy",
        lambda config: config.augment.policy != "none",
    ),
    "augment.mix_probability": _MIXES,
    "augment.cutmix_share": (
        "both augment.mixup_alpha and augment.cutmix_alpha",
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
    "schedule.warmup_learning_rate": _WARMS_UP,
    "schedule.warmup_shape": _WARMS_UP,
    "train.early_stopping_patience": _VALIDATES,
    "train.early_stopping_min_delta": _is_set("train.early_stopping_patience"),
    "eval.best_metric": _VALIDATES,
    "log.histograms": (
        "log.layers_every_steps and log.tensorboard",
        lambda config: bool(config.log.layers_every_steps and config.log.tensorboard),
    ),
}
