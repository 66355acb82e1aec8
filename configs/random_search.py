"""Random search: DenseNet-BC (L=40, k=12) on CIFAR-10 for 30 epochs, 20 draws of three fields.

    python -m jaxcifar.tools.sweep --config configs/random_search.py --dry_run
    python -m jaxcifar.tools.sweep --config configs/random_search.py
    python -m jaxcifar.main --config configs/random_search.py

The last command trains the recipe that all runs of the search share. They are compared on 5,000
images held out from the training split. Where only few of the fields matter, random draws find
better values than a grid of as many runs: Bergstra and Bengio 2012, "Random Search for
Hyper-Parameter Optimization". Not yet run.
"""

from ml_collections import ConfigDict
from scipy.stats import loguniform, uniform
from sklearn.model_selection import ParameterSampler

from jaxcifar.config import default, with_variant


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe that all runs share, or the variant that the argument names."""
    config = default()
    config.dataset.name = "cifar10"
    config.dataset.validation_size = 5_000
    config.model.name = "densenet_bc_100_12"
    config.model.depth = 40
    config.optimizer.nesterov = True
    config.schedule.name = "cosine"
    config.train.num_epochs = 30.0
    config.train.batch_size = 64
    return with_variant(config, argument)


def get_sweep() -> ParameterSampler:
    """Returns 20 draws from the distribution of each field, the same ones in every process."""
    fields = {
        "optimizer.learning_rate": loguniform(1e-2, 1),
        "optimizer.weight_decay": loguniform(1e-5, 1e-2),
        "model.dropout_rate": uniform(0, 0.3),
    }
    return ParameterSampler(fields, n_iter=20, random_state=0)
