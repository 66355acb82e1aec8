"""ResNet-18 on CIFAR-10, 11.2 million parameters, with a 3x3 stem: 200 epochs, cosine.

    python -m jaxcifar.main --config configs/resnet18.py
    python -m jaxcifar.main --config configs/resnet18.py:smoke

Expected: 94.87 % test accuracy, the median of the last ten epochs in OpenMixup's run of 200 epochs
with a cosine schedule; with `--config.augment.mixup_alpha=1` 95.70 % and with
`--config.augment.cutmix_alpha=1` 96.11 % there.

Time: 200 epochs are 10 million images, 22 hours at the 124 images/s measured on 2 CPU cores
(batches of 32, AMD EPYC, jax 0.10.2, the README's settings for a CPU). It has not been run to its
end.

The network and the recipe are those of the usual PyTorch repositories: He et al. 2015, table 1, but
for the stem, and weight decay 5e-4.
"""

from ml_collections import ConfigDict

from jaxcifar.config import default, form


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe, or its minutes-long form for "smoke"."""
    config = default()
    config.dataset.name = "cifar10"
    config.augment.crop_padding = 4
    config.augment.horizontal_flip = True
    config.model.name = "resnet18"
    config.model.stem = "cifar"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.weight_decay_on = "all"
    config.schedule.name = "cosine"
    config.train.num_epochs = 200.0
    config.train.batch_size = 128
    return form(config, argument)
