"""The config of a run: its fields, durations, and the variants of a recipe.

A recipe (a file of `configs/`) takes `default()` and sets what differs. `jaxcifar fields` and
docs/config.md list all fields.
"""

from jaxcifar.config.durations import Due, Durations, durations
from jaxcifar.config.fields import FIELDS, RESUME
from jaxcifar.config.structure import default
from jaxcifar.config.variants import split_argument, with_variant

__all__ = [
    "FIELDS",
    "RESUME",
    "Due",
    "Durations",
    "default",
    "durations",
    "split_argument",
    "with_variant",
]
