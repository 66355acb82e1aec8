"""ResNet-18 on CIFAR-10, 11.2 million parameters, with a 3x3 stem: 200 epochs, cosine.

    python -m jaxcifar.main --config configs/resnet18.py
    python -m jaxcifar.main --config configs/resnet18.py:smoke

Expected: 94.87 % test accuracy, the median of the last ten epochs in OpenMixup's run of 200 epochs
with a cosine schedule. OpenMixup reports 95.70 % with `--config.augment.mixup_alpha=1` and 96.11 %
with `--config.augment.cutmix_alpha=1`.

Time: 200 epochs are 10 million images, 22 hours at the 124 images/s measured on 2 CPU cores
(batches of 32, AMD EPYC, jax 0.10.2, with the default CPU settings).

Measured: not yet.

The network and recipe follow common PyTorch implementations: He et al. 2015, table 1, except for
the stem and a weight decay of 5e-4.
"""

from ml_collections import ConfigDict

from jaxcifar.config import default, with_variant


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe, or the variant that the argument names."""
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
    config.optimizer.weight_decay_mask = "all"
    config.schedule.name = "cosine"
    config.train.num_epochs = 200.0
    config.train.batch_size = 128
    return with_variant(config, argument)
