"""ResNet-20 on CIFAR-10, 0.27 million parameters: He et al. 2015, section 4.2.

    python -m jaxcifar.main --config configs/resnet20.py

Expected: 91.25 % test accuracy at the last step (the paper's table 6); a public PyTorch re-run
has 91.73 % at its best epoch (akamaster/pytorch_resnet_cifar10).

Time: 64,000 steps are 8.2 million images, 1.8 hours at the 1,285 images/s measured on 2 CPU cores
(AMD EPYC, jax 0.10.2, the README's settings for a CPU). It has not been run to its end.

The paper chose the recipe on 45,000 training and 5,000 validation images, a split such as
`--config.dataset.validation_size=5000` makes, and trained on all 50,000 for its results.
"""

from ml_collections import ConfigDict

from jaxcifar.config import default, form


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe, or its minutes-long form for "smoke"."""
    config = default()
    config.dataset.name = "cifar10"
    config.augment.crop_padding = 4
    config.augment.horizontal_flip = True
    config.model.name = "resnet20"
    config.model.shortcut = "A"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.weight_decay_on = "all"
    config.schedule.name = "multistep"
    config.schedule.milestones_steps = (32_000, 48_000)
    config.schedule.gamma = 0.1
    config.train.num_steps = 64_000
    config.train.batch_size = 128
    return form(config, argument)
