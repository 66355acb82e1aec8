"""The table of all fields of a config.

The default config, the checks, the rules for resuming a run, `jaxcifar fields` and
docs/config.md all follow from it: to add a field, add its line here.
"""

from jaxcifar.config.field import FREE, IDENTITY, Field, Resume, duration
from jaxcifar.config.rules import (
    CHECKPOINT,
    GROUPS,
    NAME,
    PARAMETER_GROUPS,
    Condition,
    above,
    at_least,
    at_most,
    below,
    between,
    differs,
    duration_is_set,
    equals,
    integers,
    is_set,
    numbers,
    one_of,
    starts_with,
)

_FRACTION = between(0, 1)
_BELOW_ONE = at_least(0) & below(1)
_OPEN_FRACTION = above(0) & below(1)
_SEED = at_least(0) & below(2**32)
_SECONDS = above(0) & at_most(1_000_000)
_BATCH_SIZE = between(1, 2**20)  # so that a position within a call's batches fits 32 bits

_FOLDER = equals("dataset.name", "image_folder")
_TFDS = starts_with("dataset.name", "tfds:")
_OWN_DATA = equals("dataset.name", "arrays", "image_folder") | _TFDS
# A folder's images are decoded batch by batch, unless they are kept on the device.
_STREAMED = _FOLDER & differs("dataset.pipeline", "device")
_NOT_STREAMED = differs("dataset.name", "image_folder") | equals("dataset.pipeline", "device")
_ON_DEVICE = Condition(
    "dataset.pipeline = 'device' or auto (except for an image_folder)",
    lambda config: (differs("dataset.pipeline", "tf") & _NOT_STREAMED).holds(config),
)
_VALIDATES = is_set("dataset.validation_size")
_RANDAUGMENT = equals("augment.policy", "randaugment")
_MIXUP, _CUTMIX = is_set("augment.mixup_alpha"), is_set("augment.cutmix_alpha")
_SGD = equals("optimizer.name", "sgd", "sgdw", "muon")
_MUON = equals("optimizer.name", "muon")
_LOOKAHEAD = is_set("optimizer.lookahead_interval")
_ADAMW = equals("optimizer.name", "adamw")
_WARM_UP = duration_is_set("schedule.warmup")
_WARM_RESTARTS = equals("schedule.name", "warm_restarts")
_RISES = equals("schedule.name", "one_cycle", "triangular")
_CURVE = equals("schedule.name", "linear", "cosine", "warm_restarts", "one_cycle", "triangular")

SECTIONS = {
    "dataset": "Images and labels, and how they reach the device",
    "augment": "Random changes to the training images",
    "model": "The network",
    "optimizer": "How gradients update the parameters",
    "schedule": "The learning rate over the run",
    "train": "The training loop",
    "eval": "Evaluation during and after training",
    "checkpoint": "Saving the run",
    "log": "What is printed and written while the run trains",
}

# fmt: off
FIELDS: dict[str, Field] = {
    "dataset.name": Field("cifar10",
        "cifar10, cifar100, image_folder, arrays (NumPy files), tfds:NAME (a set of TensorFlow "
        "Datasets), digits (8x8, bundled) or fake (random images)", NAME, IDENTITY),
    "dataset.data_dir": Field("",
        "image_folder: its root; arrays: an .npz file or a folder of .npy files; CIFAR and tfds: "
        "the TFDS directory, by default $TFDS_DATA_DIR or ~/tensorflow_datasets", resume=FREE,
        only_if=equals("dataset.name", "cifar10", "cifar100", "image_folder", "arrays") | _TFDS),
    "dataset.pipeline": Field("auto",
        "device: the training images are kept in device memory; tf: tf.data; auto: device unless "
        "the dataset is an image_folder", one_of("auto", "device", "tf"), IDENTITY),
    "dataset.labels": Field("fine", "CIFAR-100 labels: fine has 100 classes, coarse has 20",
        one_of("fine", "coarse"), IDENTITY, equals("dataset.name", "cifar100")),
    "dataset.image_size": Field(0,
        "height and width in pixels that images are resized to; 0: 224 for an image_folder, "
        "otherwise as stored", between(0, 4096), only_if=_OWN_DATA),
    "dataset.channels": Field(0,
        "1: colour images become grey, with weights 0.299, 0.587 and 0.114 for red, green and "
        "blue; 3: grey images get three equal channels; 0: as stored (3 for an image_folder)",
        one_of(0, 1, 3), IDENTITY, _OWN_DATA),
    "dataset.mean": Field((),
        "mean of each channel that is subtracted, on the scale from 0 to 1; (): that of the "
        "training images (of ImageNet for an image_folder that is not on the device)",
        numbers(0, 1, "(0.49, 0.48, 0.45)")),
    "dataset.std": Field((), "standard deviation of each channel; set together with dataset.mean",
        numbers(0.001, 1, "(0.25, 0.24, 0.26)")),
    "dataset.test_size": Field(0,
        "for data without a test split: images of the training split that become the test split, "
        "stratified by class", at_least(0), IDENTITY, _OWN_DATA),
    "dataset.on_bad_image": Field("error",
        "image_folder: stop with an error, or skip images that cannot be decoded",
        one_of("error", "skip"), only_if=_FOLDER),
    "dataset.max_bad_images": Field(0.1,
        "largest share of a split's images that may be skipped; with more the run stops",
        _FRACTION, FREE, equals("dataset.on_bad_image", "skip")),
    "dataset.check_seconds": Field(10.0,
        "image_folder read by tf.data: time for decoding images at the start, those of validation "
        "and test first, so that bad ones are found before training; 0: none", at_least(0), FREE,
        _STREAMED),
    "dataset.exif_orientation": Field(False,
        "image_folder: turn each image as the orientation in its EXIF data says, for training and "
        "evaluation", only_if=_FOLDER),
    "dataset.fingerprint": Field("auto",
        "image_folder read by tf.data: what a resumed run compares: the names and sizes of the "
        "files, and their contents or a sample of 4 KiB of each; auto: contents of a split of up "
        "to 2 GiB, else sample", one_of("auto", "contents", "sample", "names"), FREE, _STREAMED),
    "dataset.validation_size": Field(0,
        "training images held out for validation, stratified by class", at_least(0), IDENTITY),
    "dataset.validation_seed": Field(0,
        "seed that selects the validation images, independent of train.seed", _SEED, IDENTITY,
        _VALIDATES),

    "augment.crop_padding": Field(4,
        "padding in pixels before a random crop back to the original size; 0: no crop",
        at_least(0), only_if=_NOT_STREAMED),
    "augment.crop_padding_mode": Field("zeros",
        "what the padding shows: zeros, or the image reflected at its border",
        one_of("zeros", "reflect"), only_if=_NOT_STREAMED & is_set("augment.crop_padding")),
    "augment.crop_area": Field(0.08,
        "image_folder: smallest share of the image area in a random crop", above(0) & at_most(1),
        only_if=_STREAMED),
    "augment.horizontal_flip": Field(True, "mirror each image with probability 1/2"),
    "augment.alternating_flip": Field(False,
        "mirror each image in every second epoch instead of at random",
        only_if=_ON_DEVICE & equals("augment.horizontal_flip", True)),
    "augment.policy": Field("none",
        "none, autoaugment_cifar10, autoaugment_imagenet, randaugment, trivialaugment (wide) or "
        "one_of_groups", NAME),
    "augment.num_ops": Field(2, "RandAugment: number of operations per image", between(1, 100),
        only_if=_RANDAUGMENT),
    "augment.magnitude": Field(9, "RandAugment: strength of the operations", between(0, 30),
        only_if=_RANDAUGMENT),
    "augment.groups": Field((),
        "one_of_groups: probability of each group, and names and weights of its operations; (): "
        "one group of colour jitter, grey and CLAHE, and one of coarse dropout, grid distortion "
        "and elastic transform", GROUPS, only_if=equals("augment.policy", "one_of_groups")),
    "augment.fill": Field(0,
        "grey level of areas that an operation of the policy moves into the image", between(0, 255),
        only_if=differs("augment.policy", "none")),
    "augment.cutout_size": Field(0,
        "Cutout: side in pixels of a square that is set to the mean; 0: off", at_least(0)),
    "augment.erasing_probability": Field(0.0,
        "Random Erasing: probability that a rectangle is set to the mean", _FRACTION),
    "augment.mixup_alpha": Field(0.0, "MixUp: parameter of the beta distribution; 0: off",
        at_least(0)),
    "augment.cutmix_alpha": Field(0.0, "CutMix: parameter of the beta distribution; 0: off",
        at_least(0)),
    "augment.mix_probability": Field(1.0, "probability that MixUp or CutMix is applied to a batch",
        _FRACTION, only_if=_MIXUP | _CUTMIX),
    "augment.cutmix_share": Field(0.5, "share of CutMix among the mixed batches", _FRACTION,
        only_if=_MIXUP & _CUTMIX),

    "model.name": Field("resnet20", "network; `jaxcifar models` lists their names", NAME, IDENTITY),
    "model.shortcut": Field("A",
        "CIFAR ResNets, where the shape changes: A pads with zeros, B is a 1x1 convolution; none: "
        "a plain network, without shortcuts", one_of("A", "B", "none"), IDENTITY),
    "model.stem": Field("cifar",
        "ResNet-18 to -152 and DenseNet: cifar is a 3x3 convolution, imagenet a 7x7 convolution "
        "and max-pooling", one_of("cifar", "imagenet"), IDENTITY),
    "model.depth": Field(0,
        "number of layers: 6n + 2 in a CIFAR ResNet, 6n + 4 in a DenseNet-BC; 0: that of the "
        "named network", between(0, 10_000), IDENTITY),
    "model.preactivation": Field(False, "CIFAR ResNets: BatchNorm and ReLU before each convolution",
        resume=IDENTITY),
    "model.norm": Field("batch", "normalisation of a ResNet; group has 16 channels per group",
        one_of("batch", "group", "layer", "none"), IDENTITY),
    "model.zero_init_residual": Field(False, "ResNets: initialise each block as the identity",
        resume=IDENTITY, only_if=equals("model.norm", "batch", "group", "layer")),
    "model.stochastic_depth": Field(0.0,
        "ResNets: probability that the last block is skipped; lower for earlier blocks",
        _BELOW_ONE),
    "model.ternary": Field("none",
        "ternary weights in a ResNet, in all layers except the first and the last",
        one_of("none", "twn", "ttq"), IDENTITY),
    "model.ternary_scale": Field("layer", "TWN: one threshold and scale per layer or per filter",
        one_of("layer", "filter"), IDENTITY, equals("model.ternary", "twn")),
    "model.block_layers": Field((),
        "DenseNet: number of layers in each block; (): that of the named network",
        integers(1, 1000, "(6, 12, 24, 16)"), IDENTITY),
    "model.growth_rate": Field(0,
        "DenseNet: channels that each layer adds; 0: that of the named network", between(0, 1000),
        IDENTITY),
    "model.widths": Field((),
        "speedrun networks: channels of each of the three blocks; (): those of the named network",
        integers(1, 10_000, "(64, 256, 256)"), IDENTITY),
    "model.convs_per_block": Field(0,
        "speedrun networks: 3x3 convolutions per block, of which the third closes a residual "
        "branch; 0: that of the named network", between(0, 3), IDENTITY),
    "model.whitening": Field(True,
        "speedrun networks: a frozen first convolution that whitens patches of the images; else "
        "it is trained", resume=IDENTITY),
    "model.identity_init": Field(True,
        "speedrun networks: the first filters of each 3x3 convolution start as the identity",
        resume=IDENTITY),
    "model.dropout_rate": Field(0.0,
        "dropout rate, after each DenseNet layer or before a ResNet's classifier", _BELOW_ONE),
    "model.recompute": Field(False,
        "DenseNet: save memory by repeating the forward pass in the backward pass"),
    "model.sync_batch_norm": Field(False,
        "compute batch statistics over all devices instead of on each of them",
        only_if=equals("model.norm", "batch")),

    "optimizer.name": Field("sgd",
        "sgd, sgdw (SGD with decoupled weight decay), adamw, or muon for the kernels of "
        "convolutions with sgd for all else", one_of("sgd", "sgdw", "adamw", "muon"), IDENTITY),
    "optimizer.learning_rate": Field(0.1, "peak learning rate, which the schedule varies",
        above(0)),
    "optimizer.learning_rate_batch_size": Field(0,
        "batch size for which learning_rate is given; the rate used is proportional to "
        "train.batch_size; 0: no scaling", at_least(0)),
    "optimizer.momentum": Field(0.9, "share of the last update that is kept in the next",
        _BELOW_ONE, only_if=_SGD),
    "optimizer.nesterov": Field(False, "Nesterov momentum",
        only_if=_SGD & is_set("optimizer.momentum")),
    "optimizer.beta1": Field(0.9, "AdamW: decay of the mean of the gradients", _BELOW_ONE,
        only_if=_ADAMW),
    "optimizer.beta2": Field(0.999, "AdamW: decay of the mean of their squares", _BELOW_ONE,
        only_if=_ADAMW),
    "optimizer.epsilon": Field(1e-8, "AdamW: added to the root of the mean square", above(0),
        only_if=_ADAMW),
    "optimizer.weight_decay": Field(1e-4,
        "weight decay; sgd adds it to the gradient, sgdw and adamw to the update", at_least(0)),
    "optimizer.weight_decay_mask": Field("all",
        "parameters that decay: all, or kernels (no biases, no BatchNorm parameters)",
        one_of("all", "kernels"), IDENTITY, is_set("optimizer.weight_decay")),
    "optimizer.groups": Field((),
        "parameters that are trained in another way: a regular expression that is found in their "
        "path, such as \"norm.*/bias\", a factor of the learning rate, their weight decay, and the "
        "number of epochs for which they are trained, 0 for all; the first that matches counts",
        PARAMETER_GROUPS),
    "optimizer.muon_momentum": Field(0.95,
        "muon: share of the last update of a kernel that is kept in the next", _BELOW_ONE,
        only_if=_MUON),
    "optimizer.muon_iterations": Field(5,
        "muon: iterations that make the update of a kernel nearly orthogonal", between(1, 100),
        only_if=_MUON),
    "optimizer.muon_normalize": Field(False,
        "muon: scale each kernel to the root of its number of filters before each update",
        only_if=_MUON),
    "optimizer.lookahead_interval": Field(0,
        "Lookahead: interval in steps at which the weights return to slow weights that follow "
        "them; 0: off", at_least(0), IDENTITY),
    "optimizer.lookahead_keep": Field(0.5,
        "Lookahead: share of their value that the slow weights keep, at the end of the run",
        _FRACTION, only_if=_LOOKAHEAD),
    "optimizer.lookahead_power": Field(0.0,
        "Lookahead: that share grows with this power of the part of the run that is over; 0: "
        "constant", between(0, 100), only_if=_LOOKAHEAD),
    "optimizer.clip_global_norm": Field(0.0, "maximum global norm of the gradient; 0: no clipping",
        at_least(0)),

    "schedule.name": Field("constant", "shape of the schedule",
        one_of("constant", "step", "multistep", "linear", "cosine", "warm_restarts", "one_cycle",
            "triangular")),
    **duration("schedule.step_every", "step: interval after which the rate is multiplied by gamma",
        only_if=equals("schedule.name", "step")),
    **duration("schedule.milestones", "multistep: times at which the rate is multiplied by gamma",
        only_if=equals("schedule.name", "multistep"), many=True),
    "schedule.gamma": Field(0.1, "step, multistep: factor of each drop", _OPEN_FRACTION,
        only_if=equals("schedule.name", "step", "multistep")),
    **duration("schedule.cycle", "warm_restarts: length of the first cycle (T_0)",
        only_if=_WARM_RESTARTS),
    "schedule.cycle_factor": Field(1.0,
        "warm_restarts: length of each cycle relative to the one before (T_mult)", between(1, 1000),
        only_if=_WARM_RESTARTS),
    "schedule.initial_learning_rate": Field(0.0, "one_cycle, triangular: rate of the first step",
        at_least(0), only_if=_RISES),
    "schedule.final_learning_rate": Field(0.0, "rate at the end of the curve or of each cycle",
        at_least(0), only_if=_CURVE),
    "schedule.rise_fraction": Field(0.3,
        "one_cycle, triangular: share of the steps before the peak", _OPEN_FRACTION,
        only_if=_RISES),
    **duration("schedule.restart",
        "interval after which the whole schedule starts again, with its warm-up; 0: never",
        only_if=differs("schedule.name", "constant") | _WARM_UP),
    **duration("schedule.warmup", "length of the warm-up; 0: none"),
    "schedule.warmup_learning_rate": Field(0.0, "rate at the first step of the warm-up",
        at_least(0), only_if=_WARM_UP),
    "schedule.warmup_shape": Field("linear",
        "linear: up to the peak; constant: warmup_learning_rate until the warm-up ends",
        one_of("linear", "constant"), only_if=_WARM_UP),

    **duration("train.num", "length of the run; one of the two must be set"),
    "train.batch_size": Field(128, "images per step, over all devices and processes", _BATCH_SIZE,
        IDENTITY),
    "train.precision": Field("float32",
        "type of the activations; float16 has a loss scale that adapts; parameters are float32",
        one_of("float32", "bfloat16", "float16"), IDENTITY),
    "train.steps_per_call": Field(0, "most steps per compiled call; 0: 1 on a CPU, 100 elsewhere",
        between(0, 1000), FREE, _ON_DEVICE),
    "train.accumulation_steps": Field(1,
        "parts into which a batch is divided to save memory; gradients are summed", at_least(1)),
    "train.label_smoothing": Field(0.0,
        "share of each target that is spread evenly over all classes", _BELOW_ONE),
    "train.ema_decay": Field(0.0,
        "decay of a moving average of the weights, which is evaluated as well; 0: off", _BELOW_ONE,
        IDENTITY),
    "train.selector": Field("none",
        "name of a small network that trains alongside and picks the examples of each batch to "
        "train on, those with its greatest losses; none: all",
        NAME, IDENTITY),
    "train.selector_keep": Field(0.5, "share of each batch that is picked", _OPEN_FRACTION,
        IDENTITY, differs("train.selector", "none")),
    "train.early_stopping_patience": Field(0,
        "evaluations without improvement after which the run stops; 0: off", at_least(0),
        only_if=_VALIDATES),
    "train.early_stopping_min_delta": Field(0.0,
        "smallest change of eval.best_metric that counts as an improvement", at_least(0),
        only_if=is_set("train.early_stopping_patience")),
    "train.on_nonfinite": Field("stop",
        "after NaN or infinity in a step or an evaluation: stop the run, skip the step's update or "
        "the evaluation (the last one stops the run), or roll back to the last checkpoint with a "
        "lower learning rate", one_of("stop", "skip", "rollback")),
    "train.nonfinite_limit": Field(10,
        "number of skipped steps or of rollbacks after which the run stops", at_least(1),
        only_if=equals("train.on_nonfinite", "skip", "rollback")),
    "train.rollback_factor": Field(0.5,
        "factor by which each rollback multiplies the learning rate", _OPEN_FRACTION,
        only_if=equals("train.on_nonfinite", "rollback")),
    "train.deterministic": Field(False,
        "on a GPU: use only deterministic operations, and no autotuning"),
    "train.seed": Field(0, "seed of initialisation, data order and augmentation", _SEED, IDENTITY),
    "train.distributed": Field(False,
        "train in several processes, joined by jax.distributed.initialize()", resume=FREE),
    "train.peer_timeout_seconds": Field(45.0,
        "a process that sends no heartbeat for this long is treated as dead and ends the run",
        _SECONDS, FREE, equals("train.distributed", True)),

    "eval.batch_size": Field(1000, "images per evaluation step, over all devices and processes",
        _BATCH_SIZE, FREE),
    **duration("eval.every",
        "interval between evaluations; both 0: one epoch; the last step is always evaluated",
        resume=FREE),
    "eval.best_metric": Field("accuracy",
        "metric of the validation split that determines the best checkpoint",
        one_of("accuracy", "loss"), IDENTITY, _VALIDATES),
    "eval.test_time_flip": Field(False, "average predictions over each image and its mirror image",
        resume=FREE),
    "eval.test_time_shift": Field(0, "also average over copies shifted by this many pixels; 0: off",
        at_least(0), FREE),
    "eval.test_time_views": Field("corners",
        "corners: probabilities averaged over the image and four copies moved diagonally; "
        "two_corners: logits averaged over the image, of weight 1/2, and copies moved up-left and "
        "down-right", one_of("corners", "two_corners"), FREE,
        is_set("eval.test_time_flip") | is_set("eval.test_time_shift")),
    "eval.predictions": Field(False,
        "--mode eval: write the logits of every image to predictions.npz", resume=FREE),
    "eval.checkpoint": Field("latest",
        "--mode eval: latest, best, or the step of a kept checkpoint", CHECKPOINT, FREE),

    **duration("checkpoint.every",
        "interval between checkpoints; both 0: one epoch; the last step is always saved",
        resume=FREE),
    **duration("checkpoint.keep_every",
        "interval between checkpoints that are kept for good, beside latest and best; 0: none",
        resume=FREE),
    "checkpoint.on_error": Field("stop",
        "if a checkpoint cannot be written: stop the run, or continue with a warning",
        one_of("stop", "continue"), FREE),
    "checkpoint.timeout_seconds": Field(600.0, "a write that takes longer counts as failed",
        _SECONDS, FREE),

    **duration("log.every",
        "interval between lines, CSV rows and TensorBoard scalars of training, each the mean "
        "since the last; both 0: 100 steps", resume=FREE),
    **duration("log.layer_stats_every",
        "interval between statistics of each layer's gradients, weights and updates; 0: never",
        resume=FREE),
    "log.histograms": Field(False,
        "write histograms of weights and gradients to TensorBoard, at the same steps", resume=FREE,
        only_if=duration_is_set("log.layer_stats_every") & equals("log.tensorboard", True)),
    "log.tensorboard": Field(True, "write TensorBoard event files; needs TensorFlow", resume=FREE),
}
# fmt: on

RESUME: dict[str, Resume] = {path: field.resume for path, field in FIELDS.items()}

# Paths of all durations, such as "schedule.warmup" for schedule.warmup_steps and _epochs.
DURATIONS = tuple(
    path.removesuffix("_steps")
    for path in FIELDS
    if path.endswith("_steps") and f"{path.removesuffix('_steps')}_epochs" in FIELDS
)
