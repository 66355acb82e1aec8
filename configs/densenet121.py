"""DenseNet-121, or -169, -201, -264, on CIFAR-10 or CIFAR-100, with a 3x3 stem: 200 epochs, cosine.

    python -m jaxcifar.main --config configs/densenet121.py
    python -m jaxcifar.main --config configs/densenet121.py:densenet201,cifar100
    python -m jaxcifar.main --config configs/densenet121.py:cifar100,0.1
    python -m jaxcifar.main --config configs/densenet121.py:smoke

Expected: 95.04 to 95.42 % test accuracy on CIFAR-10 and 77.01 % on CIFAR-100 for DenseNet-121,
94.89 % and 78.54 % for DenseNet-201, in public PyTorch reproductions. Not yet trained to
completion.

The networks are those of the paper for ImageNet (Huang et al. 2016, table 1), except for the stem.
`--config.model.recompute=True` saves memory.
"""

from ml_collections import ConfigDict

from jaxcifar.config import default, split_argument, with_variant

_NETWORKS = ("densenet121", "densenet169", "densenet201", "densenet264")
_DATASETS = ("cifar10", "cifar100")


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe for "network,dataset,variant", each of which may be left out."""
    (network, dataset), variant = split_argument(argument, _NETWORKS, _DATASETS)
    config = default()
    config.dataset.name = dataset
    config.augment.crop_padding = 4
    config.augment.horizontal_flip = True
    config.model.name = network
    config.model.stem = "cifar"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.weight_decay_mask = "all"
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 5.0
    config.train.num_epochs = 200.0
    config.train.batch_size = 64
    return with_variant(config, variant)
