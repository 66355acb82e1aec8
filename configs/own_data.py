r"""ResNet-20 on your own images: arrays in an .npz file, or what docs/data.md describes.

    python -m jaxcifar.main --config configs/own_data.py --config.dataset.data_dir=data.npz
    python -m jaxcifar.main --config configs/own_data.py --config.dataset.name=tfds:mnist
    python -m jaxcifar.main --config configs/own_data.py --config.dataset.data_dir=images \
        --config.dataset.name=image_folder --config.dataset.image_size=32
    python -m jaxcifar.main --config configs/own_data.py:smoke

data.npz contains train_image and test_image, uint8 [N, H, W] or [N, H, W, C], and train_label and
test_label, integers from 0. A folder has the images images/train/CLASS/* and images/val/CLASS/*;
they are resized once and kept in device memory. Mean and deviation are measured on the training
images.

The schedule is a starting point and follows no publication. Images are not mirrored, as a mirrored
digit or letter is not one; for natural images set augment.horizontal_flip=True.

Expected: 98.0 % test accuracy on scikit-learn's digits, which docs/data.md writes to digits.npz, in
half a minute on 2 CPU cores (Intel Xeon with AVX-512, jax 0.10.2).
"""

from ml_collections import ConfigDict

from jaxcifar.config import default, with_variant


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe, or the variant that the argument names."""
    config = default()
    config.dataset.name = "arrays"
    config.dataset.pipeline = "device"
    config.augment.crop_padding = 2
    config.augment.horizontal_flip = False
    config.model.name = "resnet20"
    config.optimizer.learning_rate = 0.1
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 1.0
    config.train.num_epochs = 30.0
    config.train.batch_size = 128
    return with_variant(config, argument)
