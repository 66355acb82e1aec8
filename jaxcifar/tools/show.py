"""Draws a grid of training images as the network is fed them, with their targets.

    jaxcifar show --config configs/resnet34_cifar100.py --out grid.png
    jaxcifar show --config configs/resnet18.py --config.augment.policy=randaugment

The images are those of one training step on one device, after cropping, policy augmentation,
erasing and mixing; normalisation is undone for display. Below each image are its classes with their
target weights, label smoothing undone, as far as these exceed 0.01.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import config_flags

from jaxcifar.errors import InputError
from jaxcifar.tools import cli

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe file, e.g. configs/resnet18.py.", lock_config=True
)
_OUT = flags.DEFINE_string("out", "grid.png", "PNG file to write.")
_STEP = flags.DEFINE_integer("step", 0, "Training step whose batch is drawn.", lower_bound=0)
_COUNT = flags.DEFINE_integer("count", 32, "Number of images to draw, at most.", lower_bound=1)
_COLUMNS = 8


def main() -> None:
    """Draws the batch that the flags select."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxcifar.augment.pipeline import create_augment
    from jaxcifar.config.validation import validate
    from jaxcifar.data import datasets, device_pipeline
    from jaxcifar.data.batches import train_batches
    from jaxcifar.steps import augment_key

    config, out = _CONFIG.value, Path(_OUT.value)
    if out.suffix != ".png":
        raise InputError(f"--out={out}: the file name must end in .png")
    validate(config)
    info = datasets.info(config.dataset)
    split = datasets.load(config.dataset)["train"]
    if split.on_device:
        batch = device_pipeline.batch_of_step(split, config, _STEP.value)
    else:
        batches = train_batches(split, config, first_step=_STEP.value, num_steps=_STEP.value + 1)
        batch = next(batches)
    key = augment_key(config.train.seed, jnp.int32(_STEP.value))
    run = jax.jit(
        create_augment(
            config.augment,
            mean=info.mean,
            std=info.std,
            num_classes=info.num_classes,
            label_smoothing=config.train.label_smoothing,
        )
    )
    images, targets = run(key, 0, batch["image"], batch["label"], batch["mask"])
    if targets is None:
        targets = np.eye(info.num_classes)[batch["label"]]
    else:
        smoothing = config.train.label_smoothing
        targets = (np.array(targets) - smoothing / info.num_classes) / (1 - smoothing)
    pixels = (np.array(images) * np.array(info.std) + np.array(info.mean)) * 255
    pixels = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
    names = datasets.class_names(config.dataset)
    count = min(_COUNT.value, len(pixels))
    captions = [
        [f"{row[label]:.2f} {names[label]}" for label in np.argsort(-row) if row[label] > 0.01]
        for row in targets[:count]
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    grid(pixels[:count], captions).save(out)
    print(f"{out}: {count} images of step {_STEP.value}")


def grid(images: "np.ndarray", captions: list[list[str]]) -> "PIL.Image.Image":
    """Draws images in rows of eight, with lines of text below each.

    Args:
      images: uint8 array [N, H, W, C] with one or three channels.
      captions: lines of text of each image; a line wider than its image is truncated.

    Returns:
      An RGB Pillow image.
    """
    from PIL import Image, ImageDraw

    side, line = 128, 12
    lines = max(map(len, captions))
    rows = -(-len(images) // _COLUMNS)
    picture = Image.new("RGB", (_COLUMNS * (side + 4), rows * (side + 4 + lines * line)), "white")
    draw = ImageDraw.Draw(picture)
    for index, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        tile = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
        row, column = divmod(index, _COLUMNS)
        x, y = column * (side + 4) + 2, row * (side + 4 + lines * line) + 2
        picture.paste(tile.resize((side, side), Image.Resampling.NEAREST), (x, y))
        for number, text in enumerate(caption):
            while draw.textlength(text) > side:  # would run into the next tile
                text = text[:-1]
            draw.text((x, y + side + number * line), text, fill="black")
    return picture


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main, __doc__)
