"""ResNet-34 on CIFAR-100, strongly regularised: 400 epochs of MixUp, CutMix and warm restarts.

    python -m jaxcifar.main --config configs/resnet34_cifar100.py
    python -m jaxcifar.main --config configs/resnet34_cifar100.py:smoke

Expected: a plain ResNet-34 reaches 76.76 to 77.48 % test accuracy in public reproductions; MixUp
and CutMix improve a ResNet-18 by two to three points (OpenMixup). Not yet trained to completion.

Sources: cosine restarts after 50, 150 and 350 epochs, Loshchilov and Hutter 2017, "SGDR"; MixUp and
CutMix, one of the two for each batch; label smoothing 0.1, Szegedy et al. 2016, section 7; the
augmentation groups are common among users of albumentations. The run ends early in the fourth
cycle, at a learning rate near its peak. Use the network from just before the restart, which
`checkpoint.keep_every_epochs` keeps, or end the run there: `--config.train.num_epochs=350`.
"""

from ml_collections import ConfigDict

from jaxcifar.config import default, with_variant


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe, or the variant that the argument names."""
    config = default()
    config.dataset.name = "cifar100"
    config.augment.crop_padding = 4
    config.augment.horizontal_flip = True
    config.augment.policy = "one_of_groups"
    config.augment.mixup_alpha = 1.0
    config.augment.cutmix_alpha = 1.0
    config.model.name = "resnet34"
    config.model.stem = "cifar"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-3
    config.optimizer.weight_decay_mask = "all"
    config.schedule.name = "warm_restarts"
    config.schedule.cycle_epochs = 50.0
    config.schedule.cycle_factor = 2.0
    config.train.num_epochs = 400.0
    config.train.batch_size = 128
    config.train.precision = "float16"
    config.train.label_smoothing = 0.1
    config.checkpoint.keep_every_epochs = 50.0
    return with_variant(config, argument)
