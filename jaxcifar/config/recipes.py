"""Recipes that several files of configs/ share."""

from collections.abc import Sequence
from typing import Any

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


def with_length(config: ConfigDict, epochs: float, schedule: str) -> ConfigDict:
    """Returns a recipe of `he2015` with another length in epochs and another schedule.

    Its milestones, if the schedule has any, are left to the caller.
    """
    config.train.num_steps, config.train.num_epochs = 0, epochs
    config.schedule.name = schedule
    config.schedule.milestones_steps = ()
    return config


def ablations(deeper: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns the variants of a baseline with a multistep schedule that both ablations compare.

    Args:
      deeper: names of the deeper networks to compare with the baseline's.
    """
    # Clears the milestones of both the full recipe and its smoke variant.
    no_milestones = {"schedule.milestones_epochs": (), "schedule.milestones_steps": ()}
    return {
        "baseline": {},
        "cosine": {"schedule.name": "cosine", **no_milestones},
        "constant": {"schedule.name": "constant", **no_milestones},
        **{name: {"model.name": name} for name in deeper},
        # Without normalisation, training diverges at the baseline's learning rate.
        "no_batch_norm": {"model.norm": "none", "optimizer.learning_rate": 0.01},
        "batch_32": {"train.batch_size": 32},
    }


def jordan2024(model: str, epochs: float, rate: float, weight_decay: float = 0.0153) -> ConfigDict:
    """Returns the recipe of Jordan 2024, sections 3 and 5, for a speedrun network on CIFAR-10.

    Args:
      model: name of the network.
      epochs: length of the run.
      rate: peak learning rate in the paper's units: per 1,024 examples, and divided by the factor
        1 + 1 / (1 - momentum).
      weight_decay: in the same units: the share by which weights shrink per step at the peak.
    """
    momentum, batch_size, bias_factor = 0.85, 1024, 64.0
    units = 1 + 1 / (1 - momentum)
    peak, shrinkage = rate / units, weight_decay / units
    config = _speedrun(model, epochs, batch_size)
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = peak
    config.optimizer.momentum = momentum
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = shrinkage / peak
    config.optimizer.weight_decay_mask = "all"
    config.optimizer.groups = (
        ("whitening/bias", 1.0, shrinkage / peak, 3.0),
        ("norm./bias", bias_factor, shrinkage / peak / bias_factor, 0.0),
    )
    config.optimizer.lookahead_interval = 5
    config.optimizer.lookahead_keep = 0.95**5
    config.optimizer.lookahead_power = 3.0
    config.schedule.name = "triangular"
    config.schedule.initial_learning_rate = 0.2 * peak
    config.schedule.final_learning_rate = 0.07 * peak
    config.schedule.rise_fraction = 0.23
    return config


def muon94() -> ConfigDict:
    """Returns the recipe for 94 % on CIFAR-10 with Muon.

    It is that of the public record airbench94_muon (KellerJordan/cifar10-airbench), one epoch
    longer.
    """
    batch_size, kernel_rate = 2000, 0.24
    # The record's rates are for a loss summed over the batch, where here it is averaged, and that
    # of the head for one whose outputs are divided by 256 instead of 9.
    bias_rate = 0.053 * batch_size
    head_rate = 0.67 * batch_size * (9 / 256) ** 2
    # Share by which weight decay shrinks biases and head in a step at the peak rate.
    shrinkage = 2e-6 * batch_size
    config = _speedrun("speedrun94", 9.0, batch_size)
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = kernel_rate
    config.optimizer.muon_momentum = 0.6
    config.optimizer.muon_iterations = 3
    config.optimizer.muon_normalize = True
    config.optimizer.momentum = 0.85
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 0.0
    config.optimizer.groups = (
        ("whitening/bias", bias_rate / kernel_rate, shrinkage / bias_rate, 3.0),
        ("norm./bias", bias_rate / kernel_rate, shrinkage / bias_rate, 0.0),
        ("head/kernel", head_rate / kernel_rate, shrinkage / head_rate, 0.0),
    )
    config.schedule.name = "linear"
    return config


def _speedrun(model: str, epochs: float, batch_size: int) -> ConfigDict:
    """What the speedrun recipes have in common: all but the optimizer and its schedule."""
    config = default()
    config.dataset.name = "cifar10"
    config.augment.crop_padding = 2
    config.augment.crop_padding_mode = "reflect"
    config.augment.horizontal_flip = True
    config.augment.alternating_flip = True
    config.model.name = model
    config.train.num_epochs = epochs
    config.train.batch_size = batch_size
    config.train.label_smoothing = 0.2
    config.eval.every_epochs = epochs
    config.eval.test_time_flip = True
    config.eval.test_time_shift = 1
    config.eval.test_time_views = "two_corners"
    return config
