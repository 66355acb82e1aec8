"""DenseNet-BC (L=100, k=12) on CIFAR-10, 0.77 million parameters: Huang et al. 2016, section 4.2.

    python -m jaxcifar.main --config configs/densenet_bc100.py
    python -m jaxcifar.main --config configs/densenet_bc100.py:smoke

Expected: 95.49 % test accuracy, or 77.73 % with `--config.dataset.name=cifar100` (table 2 of the
paper, C10+ and C100+).

Time: 300 epochs are 15 million images, 60 hours at the 70 images/s measured on 2 CPU cores (AMD
EPYC, jax 0.10.2, with the default CPU settings). Not yet trained to completion.
"""

from ml_collections import ConfigDict

from jaxcifar.config import default, with_variant


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe, or the variant that the argument names."""
    config = default()
    config.dataset.name = "cifar10"
    config.augment.crop_padding = 4
    config.augment.horizontal_flip = True
    config.model.name = "densenet_bc_100_12"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.weight_decay_mask = "all"
    config.schedule.name = "multistep"
    config.schedule.milestones_epochs = (150, 225)
    config.schedule.gamma = 0.1
    config.train.num_epochs = 300.0
    config.train.batch_size = 64
    return with_variant(config, argument)
