"""Lists the networks, or the layers of one.

    python -m jaxcifar.tools.models
    python -m jaxcifar.tools.models --config configs/resnet56.py --config.model.norm=group

The list has each network's trainable parameters and the multiply-adds of a forward pass, for a
32x32 image and 10 classes.
"""

import sys

from ml_collections import config_flags

from jaxcifar.tools import cli

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Show the layers of this recipe's network.", lock_config=True
)


def main() -> None:
    """Prints what the flags ask for."""
    if _CONFIG.value is None:
        print_registry()
    else:
        print_layers()


def print_registry() -> None:
    """Prints a line for each network of the registry."""
    from jaxcifar import models
    from jaxcifar.models.counting import count

    print(f"{'name':<20} {'parameters':>12} {'million MACs':>13}  source")
    for name, entry in models.registered.items():
        counts = count(models.create(name, num_classes=10), (32, 32, 3))
        millions = counts.macs / 1e6
        print(f"{name:<20} {counts.parameters:>12,} {millions:>13,.2f}  {entry.source}", flush=True)


def print_layers() -> None:
    """Prints the layers of the recipe's network, with their shapes and parameters."""
    import jax
    import jax.numpy as jnp
    from flax import linen as nn

    from jaxcifar import models
    from jaxcifar.config.validation import validate
    from jaxcifar.data import datasets
    from jaxcifar.models.counting import count

    config = _CONFIG.value
    validate(config)
    info = datasets.info(config.dataset)
    model = models.from_config(config, info.num_classes)
    images = jnp.zeros((1, *info.image_shape))
    console = {"force_terminal": sys.stdout.isatty(), "width": 160}
    table = nn.tabulate(model, jax.random.key(0), console_kwargs=console)
    print(table(images, train=False))
    counts = count(model, info.image_shape)
    print(
        f"{config.model.name}: {counts.parameters:,} parameters, {counts.macs / 1e6:,.2f} million "
        "multiply-adds an image"
    )


if __name__ == "__main__":
    cli.run(main, __doc__)
