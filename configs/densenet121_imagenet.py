r"""DenseNet-121 on ImageNet, 7.98 million parameters: Huang et al. 2016, section 4.2.

    python -m jaxcifar.main --config configs/densenet121_imagenet.py \
        --config.dataset.data_dir=DIR
    python -m jaxcifar.main --config configs/densenet121_imagenet.py:smoke

DIR contains train/CLASS/*.JPEG and val/CLASS/*.JPEG.

Expected: 74.98 % top-1 and 92.29 % top-5 accuracy on the validation images with a single centre
crop (table 3 of the paper). Not yet trained.

The learning rate is divided by ten after every 30 of the 90 epochs, as in the paper; the linear
warm-up of five epochs follows Goyal et al. 2017, section 2.2. The learning rate is given for a
batch size of 256 and is scaled in proportion to another.
"""

from ml_collections import ConfigDict

from jaxcifar.config import default, with_variant


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe, or the variant that the argument names."""
    config = default()
    config.dataset.name = "image_folder"
    config.dataset.image_size = 224
    config.augment.horizontal_flip = True
    config.model.name = "densenet121"
    config.model.stem = "imagenet"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.learning_rate_batch_size = 256
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.weight_decay_mask = "all"
    config.schedule.name = "step"
    config.schedule.step_every_epochs = 30.0
    config.schedule.gamma = 0.1
    config.schedule.warmup_epochs = 5.0
    config.train.num_epochs = 90.0
    config.train.batch_size = 256
    config.train.precision = "bfloat16"
    return with_variant(config, argument)
