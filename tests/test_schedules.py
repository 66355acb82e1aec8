import numpy as np
import pytest

from jaxcifar.config import default, durations
from jaxcifar.schedules import create_schedule


def schedule(**fields):
    config = default()
    config.train.num_steps = 300
    config.update_from_flattened_dict(
        {k.replace("__", "."): v for k, v in fields.items()},
    )
    return create_schedule(config, durations(config, 1000))


STEPS = np.arange(300)


def rates(function):
    return np.array([float(function(step)) for step in STEPS])


def test_constant():
    np.testing.assert_allclose(rates(schedule(optimizer__learning_rate=0.3)), 0.3, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_multistep(gamma):
    function = schedule(
        schedule__name="multistep", schedule__milestones_steps=(100, 250), schedule__gamma=gamma
    )
    expected = 0.1 * gamma ** ((STEPS >= 100).astype(int) + (STEPS >= 250))
    np.testing.assert_allclose(rates(function), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", ["linear", "constant"])
def test_warmup_comes_before_and_does_not_move_milestones(shape):
    function = schedule(
        schedule__name="multistep",
        schedule__milestones_steps=(100,),
        schedule__warmup_steps=40,
        schedule__warmup_learning_rate=0.01,
        schedule__warmup_shape=shape,
    )
    after = 0.1 * 0.1 ** (STEPS >= 100).astype(int)
    warmup = 0.01 + (0.1 - 0.01) * STEPS / 40 if shape == "linear" else 0.01
    np.testing.assert_allclose(rates(function), np.where(STEPS < 40, warmup, after), rtol=1e-5)
