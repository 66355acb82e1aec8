"""What four ingredients of the 94 % recipe are worth: each is changed alone.

    python -m jaxcifar.tools.sweep --config configs/speedrun_ingredients.py --seeds 0,1,2
    python -m jaxcifar.main --config configs/speedrun_ingredients.py

The last command trains the baseline only, which is configs/speedrun94.py. Jordan 2024, "94% on
CIFAR-10 in 3.29 Seconds on a Single GPU", has such a table in section 3.

Results are in docs/results.md.
"""

from ml_collections import ConfigDict

from jaxcifar.config import with_variant
from jaxcifar.config.recipes import jordan2024, muon94


def get_config(argument: str = "") -> ConfigDict:
    """Returns the baseline, or the variant of its length that the argument names."""
    return with_variant(muon94(), argument)


def get_sweep() -> dict[str, dict]:
    """Returns the fields in which each variant differs from the baseline, by the variant's name."""
    paper = jordan2024("speedrun94", epochs=muon94().train.num_epochs, rate=11.5)
    # The optimizer and what belongs to it; the length is the baseline's.
    sgd = {
        f"{section}.{field}": value
        for section in ("optimizer", "schedule")
        for field, value in paper[section].items()
        if value != muon94()[section][field]
    }
    return {
        "baseline": {},
        "no_whitening": {"model.whitening": False, "optimizer.groups": _without_whitening()},
        "no_identity_init": {"model.identity_init": False},
        "sgd_with_lookahead": {**sgd, "train.batch_size": paper.train.batch_size},
        "no_alternating_flip": {"augment.alternating_flip": False},
    }


def _without_whitening() -> tuple:
    """The groups of the baseline, without the row of the whitening layer's bias."""
    return tuple(row for row in muon94().optimizer.groups if row[0] != "whitening/bias")
