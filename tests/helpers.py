"""Constants and small functions shared by tests; fixtures are in conftest.py."""

import csv
import os
from pathlib import Path
from typing import Any

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

# Columns of metrics.csv that differ from run to run.
CLOCK = ("time", "images_per_second")


def read_metrics(workdir: Path) -> list[dict[str, str]]:
    """Returns the rows of a run's metrics.csv without `CLOCK`."""
    with (workdir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: v for name, v in row.items() if name not in CLOCK} for row in rows]


def saved_steps(workdir: Path) -> list[int]:
    """Returns the steps of a run's checkpoints in ascending order."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


def restore(config: Any, workdir: Path, step: int) -> Any:
    """Returns the `Restored` state and progress of a run's checkpoint."""
    from jaxcifar.config import durations  # imports JAX, which conftest.py has to set up before
    from jaxcifar.data import datasets
    from jaxcifar.program import create_program
    from jaxcifar.resilience.checkpoint import Checkpoints

    info = datasets.info(config.dataset)
    train_size = info.train_size - config.dataset.validation_size
    program = create_program(config, info, durations(config, train_size))
    with Checkpoints(workdir / "checkpoints", create=False) as checkpoints:
        return checkpoints.restore(step, program.create_state)


def assert_same_bits(one: Any, other: Any) -> None:
    """Asserts that two trees have the same structure and bit-for-bit identical arrays."""
    import jax  # conftest.py has to set it up before
    import numpy as np

    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def make_config(**fields):
    """Returns a valid config of 100 steps with fields changed, given as section__field=value."""
    config = default()
    config.train.num_steps = 100
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return config


def make_schedule(config: Any, plan: Any) -> Any:
    """Returns the learning rate schedule of a config with these durations."""
    from jaxcifar.optim.schedules import create_schedule, peak_learning_rate

    peak = peak_learning_rate(config.optimizer, config.train.batch_size)
    return create_schedule(config.schedule, peak, plan)
