"""A random search: DenseNet-BC (L=40, k=12) on CIFAR-10 for 30 epochs, 20 draws of three fields.

    python -m jaxcifar.tools.sweep --config configs/random_search.py --dry_run
    python -m jaxcifar.tools.sweep --config configs/random_search.py
    python -m jaxcifar.main --config configs/random_search.py

The last trains what all of them share. They are compared on 5,000 training images that are held
out. Where few of the fields matter, draws find more than a grid of as many runs: Bergstra and
Bengio 2012, "Random Search for Hyper-Parameter Optimization". It has not been run here.
"""

from ml_collections import ConfigDict
from scipy.stats import loguniform, uniform
from sklearn.model_selection import ParameterSampler

from jaxcifar.config import default, form


def get_config(argument: str = "") -> ConfigDict:
    """Returns what all of them share, or its minutes-long form for "smoke"."""
    config = default()
    config.dataset.name = "cifar10"
    config.dataset.validation_size = 5_000
    config.model.name = "densenet_bc_100_12"
    config.model.depth = 40
    config.optimizer.nesterov = True
    config.schedule.name = "cosine"
    config.train.num_epochs = 30.0
    config.train.batch_size = 64
    return form(config, argument)


def get_sweep() -> ParameterSampler:
    """Returns the variants: each the fields in which it differs, the same in every process."""
    fields = {
        "optimizer.learning_rate": loguniform(1e-2, 1),
        "optimizer.weight_decay": loguniform(1e-5, 1e-2),
        "model.dropout_rate": uniform(0, 0.3),
    }
    return ParameterSampler(fields, n_iter=20, random_state=0)
