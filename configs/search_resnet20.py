"""A search: ResNet-20 on CIFAR-10 for 10 epochs; learning rate, decay, momentum and schedule.

    jaxcifar search --config configs/search_resnet20.py --trials 30
    python -m jaxcifar.main --config configs/search_resnet20.py

The last command trains the recipe that all trials share. They are judged on 5,000 images held out
from the training split. The sampler is the tree-structured Parzen estimator of Bergstra et al.
2011, "Algorithms for Hyper-Parameter Optimization"; a trial is stopped when it is worse than the
median of the earlier ones at the same evaluation.

Measured: 30 trials of ResNet-8 for 3 epochs (`configs/search_resnet20.py:0.3`,
`--config.model.name=resnet8`) took 36 minutes on 2 cores of an AMD EPYC with other work beside
them, at commit c807988; 17 were stopped early. The best had 70.30 % validation accuracy, with a
learning rate of 0.444, a weight decay of 8.5e-5, a momentum of 0.837 and a linear schedule. The
learning rate had 77 % of the importance (fANOVA), the momentum 18 %.
"""

from ml_collections import ConfigDict

from jaxcifar.config import with_variant
from jaxcifar.config.recipes import he2015, with_length


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe that all trials share, or the variant that the argument names."""
    config = with_length(he2015(20), epochs=10.0, schedule="cosine")
    config.dataset.validation_size = 5_000
    return with_variant(config, argument)


def get_study() -> dict:
    """Returns the space of the search, its sampler and its pruner."""
    return {
        "space": {
            "optimizer.learning_rate": {"low": 0.01, "high": 1.0, "log": True},
            "optimizer.weight_decay": {"low": 1e-5, "high": 1e-2, "log": True},
            "optimizer.momentum": {"low": 0.8, "high": 0.98},
            "schedule.name": ["cosine", "linear", "one_cycle"],
            "schedule.rise_fraction": {
                "low": 0.1,
                "high": 0.5,
                "only_if": {"schedule.name": "one_cycle"},
            },
        },
        "sampler": "tpe",
        "pruner": "median",
        "seed": 0,
    }
