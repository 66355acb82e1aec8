"""Grid search: ResNet-20 on CIFAR-10 for 30 epochs, nine pairs of learning rate and weight decay.

    python -m jaxcifar.tools.sweep --config configs/grid_search.py --dry_run
    python -m jaxcifar.tools.sweep --config configs/grid_search.py
    python -m jaxcifar.main --config configs/grid_search.py

The last command trains the recipe that all runs of the grid share. They are compared on 5,000
images held out from the training split. Not yet run.
"""

from ml_collections import ConfigDict
from sklearn.model_selection import ParameterGrid

from jaxcifar.config import default, with_variant


def get_config(argument: str = "") -> ConfigDict:
    """Returns the recipe that all runs share, or the variant that the argument names."""
    config = default()
    config.dataset.name = "cifar10"
    config.dataset.validation_size = 5_000
    config.model.name = "resnet20"
    config.optimizer.nesterov = True
    config.schedule.name = "cosine"
    config.train.num_epochs = 30.0
    return with_variant(config, argument)


def get_sweep() -> ParameterGrid:
    """Returns the grid: the values of each field that is varied."""
    return ParameterGrid(
        {
            "optimizer.learning_rate": [0.01, 0.05, 0.1],
            "optimizer.weight_decay": [1e-4, 5e-4, 1e-3],
        }
    )
