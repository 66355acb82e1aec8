"""Ablations of a CIFAR-10 recipe: ResNet-18 for 100 epochs, with one thing changed per variant.

    python -m jaxcifar.tools.sweep --config configs/ablations.py --dry_run
    python -m jaxcifar.tools.sweep --config configs/ablations.py --only baseline,cosine
    python -m jaxcifar.main --config configs/ablations.py

The last command trains the baseline only. It has the learning rate, momentum, weight decay and
augmentation of He et al. 2015, section 4.2, and drops at one half and three quarters of its length.
Variants are compared on 5,000 images held out from the training split. Not yet run.
"""

from ml_collections import ConfigDict

from jaxcifar.config import default, with_variant
from jaxcifar.config.recipes import ablations


def get_config(argument: str = "") -> ConfigDict:
    """Returns the baseline, or the variant of its length that the argument names."""
    config = default()
    config.dataset.name = "cifar10"
    config.dataset.validation_size = 5_000
    config.augment.crop_padding = 4
    config.augment.horizontal_flip = True
    config.model.name = "resnet18"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "multistep"
    config.schedule.milestones_epochs = (50.0, 75.0)
    config.schedule.gamma = 0.1
    config.train.num_epochs = 100.0
    config.train.batch_size = 128
    return with_variant(config, argument)


def get_sweep() -> dict[str, dict]:
    """Returns the fields in which each variant differs from the baseline, by the variant's name."""
    return {
        **ablations(deeper=("resnet34", "resnet50")),
        "no_augmentation": {"augment.crop_padding": 0, "augment.horizontal_flip": False},
        "no_weight_decay": {"optimizer.weight_decay": 0.0},
        "no_momentum": {"optimizer.momentum": 0.0},
    }
