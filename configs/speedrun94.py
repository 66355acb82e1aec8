"""94 % on CIFAR-10 in 9 epochs: the network of Jordan 2024, trained with Muon.

    python -m jaxcifar.main --config configs/speedrun94.py
    python -m jaxcifar.main --config configs/speedrun94.py:smoke

Expected: a little above 94.01 % test accuracy with the test-time views, which is the mean of 200
runs of the public record that this recipe follows (airbench94_muon of
KellerJordan/cifar10-airbench). The record takes 8 epochs, and half of its runs stay below 94 %.

Memory: 6.3 GB for batches of 2,000 images (2 cores of an AMD EPYC with AVX-512, jax 0.10.2).
"""

from ml_collections import ConfigDict

from jaxcifar.config import default, with_variant

BATCH_SIZE = 2000
KERNEL_RATE = 0.24
# The record's rates are for a loss summed over the batch, where here it is averaged, and that of
# the head for one whose outputs are divided by 256 instead of 9.
BIAS_RATE = 0.053 * BATCH_SIZE
HEAD_RATE = 0.67 * BATCH_SIZE * (9 / 256) ** 2
# Share by which weight decay shrinks biases and head in a step at the peak rate.
SHRINKAGE = 2e-6 * BATCH_SIZE


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe, or the variant that the argument names."""
    config = default()
    config.dataset.name = "cifar10"
    config.augment.crop_padding = 2
    config.augment.crop_padding_mode = "reflect"
    config.augment.horizontal_flip = True
    config.augment.alternating_flip = True
    config.model.name = "speedrun94"
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = KERNEL_RATE
    config.optimizer.muon_momentum = 0.6
    config.optimizer.muon_iterations = 3
    config.optimizer.muon_normalize = True
    config.optimizer.momentum = 0.85
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 0.0
    config.optimizer.groups = (
        ("whitening/bias", BIAS_RATE / KERNEL_RATE, SHRINKAGE / BIAS_RATE, 3.0),
        ("norm./bias", BIAS_RATE / KERNEL_RATE, SHRINKAGE / BIAS_RATE, 0.0),
        ("head/kernel", HEAD_RATE / KERNEL_RATE, SHRINKAGE / HEAD_RATE, 0.0),
    )
    config.schedule.name = "linear"
    config.train.num_epochs = 9.0
    config.train.batch_size = BATCH_SIZE
    config.train.label_smoothing = 0.2
    config.eval.every_epochs = 9.0
    config.eval.test_time_flip = True
    config.eval.test_time_shift = 1
    config.eval.test_time_views = "two_corners"
    return with_variant(config, argument)
