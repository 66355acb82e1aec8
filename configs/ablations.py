"""What the parts of a CIFAR-10 recipe are worth: ResNet-18 for 100 epochs, with one thing changed.

    python -m jaxcifar.tools.sweep --config configs/ablations.py --dry_run
    python -m jaxcifar.tools.sweep --config configs/ablations.py --only baseline,cosine,no_batch_norm
    python -m jaxcifar.main --config configs/ablations.py

The last trains the baseline alone. That has the rate, momentum, weight decay and augmentation of
He et al. 2015, section 4.2, and its milestones, at a half and three quarters of the length.
Variants are compared on 5,000 training images that are held out. It has not been run here.
"""

from ml_collections import ConfigDict

from jaxcifar.config import default, form


def get_config(argument: str = "") -> ConfigDict:
    """Returns the baseline, or its minutes-long form for "smoke"."""
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
    return form(config, argument)


def get_sweep() -> dict[str, dict]:
    """Returns the variants by name, each the fields in which it differs from the baseline."""
    # Of the recipe and of its smoke form.
    no_milestones = {"schedule.milestones_epochs": (), "schedule.milestones_steps": ()}
    return {
        "baseline": {},
        "cosine": {"schedule.name": "cosine", **no_milestones},
        "constant": {"schedule.name": "constant", **no_milestones},
        "resnet34": {"model.name": "resnet34"},
        "resnet50": {"model.name": "resnet50"},
        # Without normalisation it diverges at the baseline's rate.
        "no_batch_norm": {"model.norm": "none", "optimizer.learning_rate": 0.01},
        "batch_32": {"train.batch_size": 32},
        "no_augmentation": {"augment.crop_padding": 0, "augment.horizontal_flip": False},
        "no_weight_decay": {"optimizer.weight_decay": 0.0},
        "no_momentum": {"optimizer.momentum": 0.0},
    }
