"""95 % on CIFAR-10 in 15 epochs: Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds", section 5.

    python -m jaxcifar.main --config configs/speedrun95.py
    python -m jaxcifar.main --config configs/speedrun95.py:smoke

Expected: 95.01 % test accuracy with the test-time views, the mean of the paper's runs.

Measured: not yet.
"""

from ml_collections import ConfigDict

from jaxcifar.config import with_variant
from jaxcifar.config.recipes import jordan2024


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe, or the variant that the argument names."""
    config = jordan2024("speedrun95", epochs=15.0, rate=10.0)
    return with_variant(config, argument)
