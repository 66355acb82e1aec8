"""A speedrun network on CIFAR-100: 30 epochs with Jordan 2024's recipe.

    python -m jaxcifar.main --config configs/speedrun_cifar100.py
    python -m jaxcifar.main --config configs/speedrun_cifar100.py:smoke

The network is that for 95 % on CIFAR-10.

Measured: not yet.
"""

from ml_collections import ConfigDict

from jaxcifar.config import with_variant
from jaxcifar.config.recipes import jordan2024


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe, or the variant that the argument names."""
    config = jordan2024("speedrun95", epochs=30.0, rate=10.0)
    config.dataset.name = "cifar100"
    return with_variant(config, argument)
