"""Recipes that several files of configs/ share."""

from ml_collections import ConfigDict

from jaxcifar.config.structure import default


def he2015(depth: int) -> ConfigDict:
    """Returns the CIFAR-10 recipe of He et al. 2015, section 4.2, for a ResNet of this depth."""
    config = default()
    config.dataset.name = "cifar10"
    config.augment.crop_padding = 4
    config.augment.horizontal_flip = True
    config.model.name = f"resnet{depth}"
    config.model.shortcut = "A"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.weight_decay_mask = "all"
    config.schedule.name = "multistep"
    config.schedule.milestones_steps = (32_000, 48_000)
    config.schedule.gamma = 0.1
    config.train.num_steps = 64_000
    config.train.batch_size = 128
    return config
