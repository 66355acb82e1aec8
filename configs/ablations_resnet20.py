"""Ablations at a size for a CPU: ResNet-20 on CIFAR-10 for 15 epochs, one change per variant.

    python -m jaxcifar.tools.sweep --config configs/ablations_resnet20.py --seeds 0,1,2
    python -m jaxcifar.main --config configs/ablations_resnet20.py

The last command trains the baseline only. It has the learning rate, momentum, weight decay and
augmentation of He et al. 2015, section 4.2, and drops at one half and three quarters of its length.
Variants are compared on 5,000 images held out from the training split. configs/ablations.py has
the same questions for ResNet-18 and 100 epochs.

Results are in docs/results.md.
"""

from ml_collections import ConfigDict

from jaxcifar.config import with_variant
from jaxcifar.config.recipes import ablations, he2015, with_length


def get_config(argument: str = "") -> ConfigDict:
    """Returns the baseline, or the variant of its length that the argument names."""
    config = with_length(he2015(20), epochs=15.0, schedule="multistep")
    config.schedule.milestones_epochs = (7.5, 11.25)
    config.dataset.validation_size = 5_000
    return with_variant(config, argument)


def get_sweep() -> dict[str, dict]:
    """Returns the fields in which each variant differs from the baseline, by the variant's name."""
    return {
        **ablations(deeper=("resnet32", "resnet56")),
        "batch_512": {"train.batch_size": 512},
    }
