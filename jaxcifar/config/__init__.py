"""Every field a run has, and durations in steps.

A recipe (a file of `configs/`) takes `default()` and sets what differs. Durations come in pairs,
`..._steps` and `..._epochs`, of which at most one is set; an epoch is one pass over the training
split, `train_size / batch_size` steps, which need not be a whole number.
"""

import dataclasses
from typing import NamedTuple

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
    config.model.dropout_rate = 0.0  # share that is zeroed of a DenseNet layer's new features; of
    # what a ResNet's classifier is given
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
    config.train.on_nonfinite = "stop"  # what NaN or infinity in a step leads to: stop, skip (the
    # step's update is left out) or rollback (to the last checkpoint, with a lower learning rate)
    config.train.nonfinite_limit = 10  # skip: steps, rollback: returns, after which the run stops
    config.train.rollback_factor = 0.5  # rollback: what each return multiplies learning_rate by
    config.train.deterministic = False  # on a GPU: only operations that give the same bits each
    # time, and no autotuning; what that costs has not been measured here
    config.train.seed = 0  # initialisation, order of the data, augmentation
    config.train.distributed = False  # several processes, found by jax.distributed.initialize()
    config.train.peer_timeout_seconds = 45.0  # after which a silent one ends the run

    config.eval = ConfigDict()
    config.eval.batch_size = 1000  # over all devices and processes
    config.eval.every_steps = 0  # both 0: once an epoch; the end is always evaluated
    config.eval.every_epochs = 0.0  # the same, in epochs
    config.eval.best_metric = "accuracy"  # of the validation split: accuracy or loss
    config.eval.test_time_flip = False  # average predictions over the image and its mirror image
    config.eval.test_time_shift = 0  # and over copies shifted by so many pixels; 0: off
    config.eval.predictions = False  # --mode eval: every image's logits to predictions.npz
    config.eval.checkpoint = "latest"  # --mode eval: latest, best, or the number of a kept step

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 0  # both 0: once an epoch; the end is always saved
    config.checkpoint.every_epochs = 0.0  # the same, in epochs
    config.checkpoint.keep_every_steps = 0  # kept for good, beside latest and best; both 0: none
    config.checkpoint.keep_every_epochs = 0.0  # the same, in epochs
    config.checkpoint.on_error = "stop"  # if one cannot be written: stop or continue the run
    config.checkpoint.timeout_seconds = 600.0  # a write that takes longer is such an error

    config.log = ConfigDict()
    config.log.every_steps = 0  # a line, a CSV row and TensorBoard scalars of training, which are
    # means since the last; both 0: every 100 steps
    config.log.every_epochs = 0.0  # the same, in epochs
    config.log.layers_every_steps = 0  # each layer's gradient, weights and update; both 0: off
    config.log.layers_every_epochs = 0.0  # the same, in epochs
    config.log.histograms = False  # of weights and gradients to TensorBoard, at the same steps
    config.log.tensorboard = True  # event files; needs TensorFlow

    return config.lock()


# Whether a field may differ when a run goes on: "identity" never, "changeable" by a flag, and then
# the manifest tells, "free" at any time.
_RESUME = {
    # Without these the saved state is of another shape or means something else: the network and its
    # arrays, the images held out, and what the step number says of the images that have been seen.
    "identity": """
        dataset.name dataset.pipeline dataset.labels dataset.validation_size dataset.validation_seed
        model.name model.shortcut model.stem model.depth model.preactivation model.norm
        model.zero_init_residual model.ternary model.ternary_scale model.block_layers
        model.growth_rate
        optimizer.name optimizer.weight_decay_on
        train.batch_size train.precision train.ema_decay train.seed
        eval.best_metric
    """,
    # The state goes on, but the run is no longer what its config says.
    "changeable": """
        dataset.image_size dataset.on_bad_image
        augment.crop_padding augment.crop_area augment.horizontal_flip augment.alternating_flip
        augment.policy augment.num_ops augment.magnitude augment.groups augment.fill
        augment.cutout_size augment.erasing_probability augment.mixup_alpha augment.cutmix_alpha
        augment.mix_probability augment.cutmix_share
        model.stochastic_depth model.dropout_rate model.recompute model.sync_batch_norm
        optimizer.learning_rate optimizer.learning_rate_batch_size optimizer.momentum
        optimizer.nesterov optimizer.beta1 optimizer.beta2 optimizer.epsilon optimizer.weight_decay
        optimizer.clip_global_norm
        schedule.name schedule.every_steps schedule.every_epochs schedule.milestones_steps
        schedule.milestones_epochs schedule.gamma schedule.cycle_steps schedule.cycle_epochs
        schedule.cycle_factor schedule.initial_learning_rate schedule.final_learning_rate
        schedule.rise schedule.restart_steps schedule.restart_epochs schedule.warmup_steps
        schedule.warmup_epochs schedule.warmup_learning_rate schedule.warmup_shape
        train.num_steps train.num_epochs train.accumulation_steps train.label_smoothing
        train.early_stopping_patience train.early_stopping_min_delta
        train.on_nonfinite train.nonfinite_limit train.rollback_factor train.deterministic
    """,
    # Where things are (the images themselves are compared), how the work is divided into calls and
    # processes, and how often the run looks at itself, writes and keeps.
    "free": """
        dataset.data_dir train.steps_per_call train.distributed train.peer_timeout_seconds
        eval.batch_size eval.every_steps eval.every_epochs eval.test_time_flip eval.test_time_shift
        eval.predictions eval.checkpoint
        checkpoint.every_steps checkpoint.every_epochs checkpoint.keep_every_steps
        checkpoint.keep_every_epochs checkpoint.on_error checkpoint.timeout_seconds
        log.every_steps log.every_epochs log.layers_every_steps log.layers_every_epochs
        log.histograms log.tensorboard
    """,
}
RESUME = {field: kind for kind, fields in _RESUME.items() for field in fields.split()}


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
    config.log.every_steps, config.log.every_epochs = 5, 0.0
    return config


@dataclasses.dataclass(frozen=True)
class Durations:
    """The config's durations in steps; 0 is never, and `length` that of the schedule.

    What the schedule repeats has fractions, or the ends of its pieces would drift from the epochs.
    """

    num_steps: int
    steps_per_epoch: float
    milestones: tuple[int, ...]
    warmup_steps: int
    step_every: float
    cycle: float
    restart: float
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


_MAX_STEPS = 2**31 - 1  # the state counts them in 32 bits


class Due(NamedTuple):
    """What is to be done after a step."""

    log: bool
    watch: bool
    evaluate: bool
    save: bool


def durations(config: ConfigDict, train_size: int) -> Durations:
    """Converts the config's epochs to steps, for `train_size` training images.

    Raises:
      InputError: if a milestone, the first drop or the warm-up lies beyond the schedule's last
        step, or a duration has more steps than can be counted.
    """
    steps_per_epoch = train_size / config.train.batch_size

    def period(section: str, name: str, default_epochs: float = 0.0) -> float:
        steps, epochs = config[section][f"{name}_steps"], config[section][f"{name}_epochs"]
        epochs = epochs or default_epochs
        steps = steps or (max(1.0, epochs * steps_per_epoch) if epochs else 0)
        if round(steps) > _MAX_STEPS:
            raise InputError(
                f"{section}.{name}_steps or _epochs: allowed are {_MAX_STEPS} steps, not "
                f"{round(steps)}"
            )
        return steps

    def to_steps(section: str, name: str, default_epochs: float = 0.0) -> int:
        return round(period(section, name, default_epochs))

    schedule = config.schedule
    num_steps, restart = to_steps("train", "num"), period("schedule", "restart")
    result = Durations(
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        milestones=tuple(schedule.milestones_steps)
        or tuple(round(e * steps_per_epoch) for e in schedule.milestones_epochs),
        warmup_steps=to_steps("schedule", "warmup"),
        step_every=period("schedule", "every"),
        cycle=period("schedule", "cycle"),
        restart=restart,
        length=round(restart) or num_steps,
        eval_every=to_steps("eval", "every", default_epochs=1),
        checkpoint_every=to_steps("checkpoint", "every", default_epochs=1),
        keep_every=to_steps("checkpoint", "keep_every"),
        log_every=to_steps("log", "every") or 100,
        watch_every=to_steps("log", "layers_every"),
    )
    ends = {
        "milestones": max(result.milestones, default=0),
        "every": round(result.step_every),
        "warmup": result.warmup_steps,
    }
    for field, step in ends.items():
        if step >= result.length:
            raise InputError(
                f"schedule.{field}_steps or _epochs: step {step} must come before the end of "
                f"the schedule, step {result.length}"
            )
    return result
