"""ResNet-56 on CIFAR-10, 0.85 million parameters: He et al. 2015, section 4.2.

    python -m jaxcifar.main --config configs/resnet56.py

Expected: 93.03 % test accuracy at the last step (the paper's table 6); a public PyTorch re-run
has 93.39 % at its best epoch (akamaster/pytorch_resnet_cifar10).

Time: 64,000 steps are 8.2 million images, 4.5 hours at the 503 images/s measured on 2 CPU cores
(AMD EPYC, jax 0.10.2, the README's settings for a CPU). It has not been run to its end.

To train on after the end, from the first learning rate again: `--config.train.num_steps=128000
--config.schedule.restart_steps=64000 --accept_config_change`.

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
    config.model.name = "resnet56"
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
