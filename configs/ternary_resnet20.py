"""What ternary weights cost ResNet-20 on CIFAR-10: 30 epochs with float32, TWN and TTQ weights.

    python -m jaxcifar.tools.sweep --config configs/ternary_resnet20.py --seeds 0,1,2
    python -m jaxcifar.main --config configs/ternary_resnet20.py

The last command trains the float32 twin only. The recipe is that of He et al. 2015, section 4.2,
with a cosine schedule over its 30 epochs. Ternary weights follow Li et al. 2016, "Ternary Weight
Networks" (TWN), and Zhu et al. 2016, "Trained Ternary Quantization" (TTQ); the first and the last
layer stay float32, as in both papers. Here all three start from random weights, whereas Zhu et
al. start from a trained float32 network.

Results are in docs/results.md.
"""

from ml_collections import ConfigDict

from jaxcifar.config import with_variant
from jaxcifar.config.recipes import he2015, with_length


def get_config(argument: str = "") -> ConfigDict:
    """Returns the float32 twin, or the variant of its length that the argument names."""
    return with_variant(with_length(he2015(20), epochs=30.0, schedule="cosine"), argument)


def get_sweep() -> dict[str, dict]:
    """Returns the fields in which each variant differs from the float32 twin, by its name."""
    return {
        "float32": {},
        "twn": {"model.ternary": "twn"},
        "ttq": {"model.ternary": "ttq"},
    }
