"""ResNet-56 on CIFAR-10, 0.85 million parameters: He et al. 2015, section 4.2.

    python -m jaxcifar.main --config configs/resnet56.py
    python -m jaxcifar.main --config configs/resnet56.py:0.1    # a tenth of its length

Expected: 93.03 % test accuracy at the last step (table 6 of the paper). A public PyTorch
reproduction reaches 93.39 % at its best epoch (akamaster/pytorch_resnet_cifar10).

Time: 64,000 steps are 8.2 million images, 4.5 hours at the 503 images/s measured on 2 CPU cores
(AMD EPYC, jax 0.10.2, with the default CPU settings).

Measured: not yet.

To continue after the last step, from the first learning rate again:
`--config.train.num_steps=128000 --config.schedule.restart_steps=64000 --accept_config_change`.

The authors selected the recipe on 45,000 training and 5,000 validation images, a split such as
`--config.dataset.validation_size=5000` makes, and trained on all 50,000 images for their results.
"""

from ml_collections import ConfigDict

from jaxcifar.config import with_variant
from jaxcifar.config.recipes import he2015


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe, or the variant that the argument names."""
    return with_variant(he2015(56), argument)
