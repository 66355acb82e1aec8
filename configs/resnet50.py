"""ResNet-50 on CIFAR-10, 23.5 million parameters, with a 3x3 stem: 300 epochs, cosine.

    python -m jaxcifar.main --config configs/resnet50.py
    python -m jaxcifar.main --config configs/resnet50.py:smoke

Expected: 95.37 to 95.62 % test accuracy, as public PyTorch repositories report for 200 to 300
epochs. Not yet trained to completion.

This is ResNet-18's recipe trained for 1.5 times as long; a bottleneck network this deep has not
converged after 200 epochs.
"""

from ml_collections import ConfigDict

from jaxcifar.config import default, with_variant


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe, or the variant that the argument names."""
    config = default()
    config.dataset.name = "cifar10"
    config.augment.crop_padding = 4
    config.augment.horizontal_flip = True
    config.model.name = "resnet50"
    config.model.stem = "cifar"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.weight_decay_mask = "all"
    config.schedule.name = "cosine"
    config.train.num_epochs = 300.0
    config.train.batch_size = 128
    return with_variant(config, argument)
