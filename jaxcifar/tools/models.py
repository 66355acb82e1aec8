"""Lists the networks, or the layers of one.

    jaxcifar models
    jaxcifar models --config configs/resnet56.py --config.model.norm=group

The list gives each network's trainable parameters and the multiply-adds of a forward pass, for a
32x32 image and 10 classes.
"""

import sys

from ml_collections import config_flags

from jaxcifar.tools import cli

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe whose network is listed layer by layer.", lock_config=True
)


def main() -> None:
    """Prints the list of networks, or the layers of the recipe's network."""
    if _CONFIG.value is None:
        print_registry()
    else:
        print_layers()


def print_registry() -> None:
    """Prints the networks of the registry in a table, one per line."""
    from rich.table import Table

    from jaxcifar import models
    from jaxcifar.models.counting import count
    from jaxcifar.reporting.console import Console

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("parameters", justify="right")
    table.add_column("million MACs", justify="right")
    table.add_column("source")
    console = Console(width=None if sys.stdout.isatty() else 120)
    with console.status("counting parameters and multiply-adds"):
        for name, entry in models.registered.items():
            counts = count(models.create(name, num_classes=10), (32, 32, 3))
            millions = f"{counts.macs / 1e6:,.2f}"
            table.add_row(name, f"{counts.parameters:,}", millions, entry.source)
    console.print(table)


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
    validate(config, trains=False)
    info = datasets.info(config.dataset)
    model = models.from_config(config, info.num_classes)
    images = jnp.zeros((1, *info.image_shape))
    console = {"force_terminal": sys.stdout.isatty(), "width": 160}
    table = nn.tabulate(model, jax.random.key(0), console_kwargs=console)
    print(table(images, train=False))
    counts = count(model, info.image_shape)
    print(
        f"{config.model.name}: {counts.parameters:,} parameters, {counts.macs / 1e6:,.2f} million "
        "multiply-adds per image"
    )


if __name__ == "__main__":
    cli.run(main, __doc__)
