"""ResNet-20 on CIFAR-10, 0.27 million parameters: He et al. 2015, section 4.2.

    python -m jaxcifar.main --config configs/resnet20.py
    python -m jaxcifar.main --config configs/resnet20.py:0.1    # a tenth of its length

Expected: 91.25 % test accuracy at the last step (table 6 of the paper). A public PyTorch
reproduction reaches 91.73 % at its best epoch (akamaster/pytorch_resnet_cifar10).

Time: 64,000 steps are 8.2 million images, 1.8 hours at the 1,285 images/s measured on 2 CPU cores
(AMD EPYC, jax 0.10.2, with the default CPU settings).

Measured: not yet.

The authors selected the recipe on 45,000 training and 5,000 validation images, a split such as
`--config.dataset.validation_size=5000` makes, and trained on all 50,000 images for their results.
"""

from ml_collections import ConfigDict

from jaxcifar.config import with_variant
from jaxcifar.config.recipes import he2015


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe, or the variant that the argument names."""
    return with_variant(he2015(20), argument)
