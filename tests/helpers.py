"""Constants and small functions shared by tests; fixtures are in conftest.py."""

import os
from pathlib import Path

from jaxcifar.config import default

REPOSITORY = Path(__file__).resolve().parent.parent

# XLA_FLAGS as the user set them, before conftest.py adds two fake devices.
USERS_XLA_FLAGS = os.environ.get("XLA_FLAGS", "")

# Options of `jax.jit` that halve the time to compile a network, for what is computed once.
COMPILED_QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

# The command line of a small run that several tests interrupt, resume or evaluate.
STEPS, INTERVAL = 60, 7  # 20.3 steps an epoch
RUN = [
    "--config=configs/quickstart.py",
    "--config.model.name=resnet8",
    "--config.dataset.validation_size=138",
    "--config.train.early_stopping_patience=50",
    "--config.train.num_epochs=0",
    f"--config.train.num_steps={STEPS}",
    "--config.schedule.milestones_epochs=()",
    "--config.schedule.milestones_steps=(25,45)",
    "--config.log.every_steps=5",
    "--config.eval.every_steps=12",
    f"--config.checkpoint.every_steps={INTERVAL}",
    "--config.checkpoint.keep_every_steps=21",
    "--config.log.tensorboard=False",
]


def make_config(**fields):
    """Returns a valid config of 100 steps with fields changed, given as section__field=value."""
    config = default()
    config.train.num_steps = 100
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return config
