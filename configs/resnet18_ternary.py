"""ResNet-18 with ternary weights on CIFAR-10: 500 epochs, CutMix, label smoothing, early stopping.

    python -m jaxcifar.main --config configs/resnet18_ternary.py
    python -m jaxcifar.main --config configs/resnet18_ternary.py:smoke

Expected: no result of this recipe has been published. A public run of the same network with weaker
augmentation reached 85.5 % validation accuracy after 76 epochs, and its author expects 90 to 92 %
after 500. Not yet trained to completion.

The weights follow Li et al. 2016, "Ternary Weight Networks"; `--config.model.ternary=ttq` selects
Trained Ternary Quantization. The run stops after 40 evaluations, one per epoch, without a better
accuracy on 5,000 images held out from the training split; the best checkpoint is kept.
"""

from ml_collections import ConfigDict

from jaxcifar.config import default, with_variant


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe, or the variant that the argument names."""
    config = default()
    config.dataset.name = "cifar10"
    config.dataset.validation_size = 5000
    config.augment.crop_padding = 4
    config.augment.horizontal_flip = True
    config.augment.cutmix_alpha = 1.0
    config.augment.mix_probability = 0.5
    config.model.name = "resnet18"
    config.model.stem = "cifar"
    config.model.ternary = "twn"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.weight_decay_mask = "all"
    config.schedule.name = "cosine"
    config.train.num_epochs = 500.0
    config.train.batch_size = 128
    config.train.label_smoothing = 0.1
    config.train.early_stopping_patience = 40
    return with_variant(config, argument)
