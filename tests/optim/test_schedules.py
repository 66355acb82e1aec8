import json
import runpy

import jax
import numpy as np
import pytest

from jaxcifar.config import default, durations
from jaxcifar.config.validation import validate
from tests.helpers import REPOSITORY, make_schedule

STEPS = np.arange(300)


def schedule(name, **fields):
    """The learning rate at each of 300 steps, with 10 steps per epoch."""
    config = default()
    config.dataset.name = "digits"
    config.train.num_steps = 300
    config.schedule.name = name
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    validate(config)
    length = durations(config, 10 * config.train.batch_size)
    function = make_schedule(config, length)
    return np.array([float(function(step)) for step in STEPS])


def cosine(share, peak=0.1, floor=0.0):
    return floor + (peak - floor) * (1 + np.cos(np.pi * share)) / 2


def check(found, expected):
    np.testing.assert_allclose(found, np.broadcast_to(expected, 300), rtol=1e-5, atol=1e-8)


def test_constant():
    check(schedule("constant", optimizer__learning_rate=0.3), 0.3)


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_step(gamma):
    found = schedule("step", schedule__step_every_epochs=4.0, schedule__gamma=gamma)
    check(found, 0.1 * gamma ** (STEPS // 40))


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_multistep(gamma):
    found = schedule("multistep", schedule__milestones_steps=(100, 250), schedule__gamma=gamma)
    check(found, 0.1 * gamma ** ((STEPS >= 100).astype(int) + (STEPS >= 250)))


@pytest.mark.parametrize("floor", [0.0, 0.02])
def test_linear(floor):
    found = schedule("linear", schedule__final_learning_rate=floor)
    check(found, 0.1 + (floor - 0.1) * STEPS / 300)


@pytest.mark.parametrize("floor", [0.0, 0.02])
def test_cosine(floor):
    check(schedule("cosine", schedule__final_learning_rate=floor), cosine(STEPS / 300, floor=floor))


@pytest.mark.parametrize("factor", [1.0, 2.0, 1.5])
def test_warm_restarts(factor):
    found = schedule(
        "warm_restarts",
        schedule__cycle_epochs=4.0,
        schedule__cycle_factor=factor,
        schedule__final_learning_rate=0.01,
    )
    expected, length = [], 40.0
    while len(expected) < 300:
        expected += list(cosine(np.arange(round(length)) / round(length), floor=0.01))
        length *= factor
    check(found, expected[:300])


@pytest.mark.parametrize("name", ["one_cycle", "triangular"])
def test_one_cycle_rises_and_falls(name):
    found = schedule(
        name,
        schedule__rise_fraction=0.25,
        schedule__initial_learning_rate=0.01,
        schedule__final_learning_rate=0.001,
    )
    up, down = STEPS / 74, (STEPS - 74) / (299 - 74)
    if name == "one_cycle":
        expected = np.where(STEPS < 74, cosine(up, 0.01, 0.1), cosine(down, 0.1, 0.001))
    else:
        expected = np.where(STEPS < 74, 0.01 + 0.09 * up, 0.1 - 0.099 * down)
    check(found, expected)
    assert found.max() == pytest.approx(0.1) and found[-1] == pytest.approx(0.001)


@pytest.mark.parametrize("shape", ["linear", "constant"])
def test_warmup_comes_before_and_does_not_move_milestones(shape):
    found = schedule(
        "multistep",
        schedule__milestones_steps=(100,),
        schedule__warmup_steps=40,
        schedule__warmup_learning_rate=0.01,
        schedule__warmup_shape=shape,
    )
    after = 0.1 * 0.1 ** (STEPS >= 100).astype(int)
    warmup = 0.01 + (0.1 - 0.01) * STEPS / 40 if shape == "linear" else 0.01
    check(found, np.where(STEPS < 40, warmup, after))


def test_curves_begin_where_the_warmup_ends():
    check(
        schedule("cosine", schedule__warmup_epochs=5.0),
        np.where(STEPS < 50, 0.1 * STEPS / 50, cosine((STEPS - 50) / 250)),
    )
    found = schedule("warm_restarts", schedule__warmup_steps=20, schedule__cycle_steps=70)
    check(found, np.where(STEPS < 20, 0.1 * STEPS / 20, cosine((STEPS - 20) % 70 / 70)))
    found = schedule("triangular", schedule__warmup_steps=100, schedule__rise_fraction=0.5)
    assert found[100] == 0 and found[199] == pytest.approx(0.1)


def test_restart_begins_the_whole_schedule_anew():
    once = schedule(
        "multistep",
        train__num_steps=100,
        schedule__milestones_steps=(50, 75),
        schedule__warmup_steps=10,
    )
    again = schedule(
        "multistep",
        schedule__milestones_steps=(50, 75),
        schedule__warmup_steps=10,
        schedule__restart_epochs=10.0,
    )
    check(again, np.tile(once[:100], 3))
    check(schedule("cosine", schedule__restart_steps=60), cosine(STEPS % 60 / 60))


@pytest.mark.parametrize(
    "fields, epochs",
    [
        ({"name": "warm_restarts", "cycle_epochs": 50.0, "cycle_factor": 2.0}, (50, 150)),
        ({"name": "cosine", "restart_epochs": 50.0}, range(50, 350, 50)),
    ],
    ids=["warm_restarts", "restart"],
)
def test_pieces_of_epochs_do_not_drift_from_them(fields, epochs):
    config = default()
    config.train.num_epochs = 350.0
    config.schedule.update(fields)
    length = durations(config, 50_000)  # 390.625 steps an epoch
    rate = make_schedule(config, length)
    for restart in (round(390.625 * epoch) for epoch in epochs):
        assert float(rate(restart)) == pytest.approx(0.1)
        assert float(rate(restart - 1)) < 1e-6
    assert length.num_steps == 136_719 and float(rate(136_718)) < 1e-6


@pytest.mark.parametrize("every", [41, 47, 3_516, 9_766])
def test_a_compiled_step_falls_where_it_says(every):
    """A compiled division of floats may round to just below a whole number."""
    config = default()
    config.train.num_steps = 9 * every
    config.schedule.name, config.schedule.step_every_steps = "step", every
    rate = jax.jit(make_schedule(config, durations(config, 50_000)))
    for fall in range(1, 9):
        for step, passed in (fall * every - 1, fall - 1), (fall * every, fall):
            assert float(rate(step)) == pytest.approx(0.1 * 0.1**passed, rel=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "multistep", "milestones_steps": (100, 250)},
        {"name": "step", "step_every_steps": 7},
        {"name": "warm_restarts", "cycle_steps": 7},
        {"name": "cosine", "restart_steps": 7},
    ],
)
def test_a_rate_is_computed_without_a_loop(fields):
    config = default()
    config.train.num_steps = 300
    config.schedule.update(fields)
    text = jax.jit(make_schedule(config, durations(config, 3_000))).lower(0).as_text()
    assert "while" not in text


def test_milestones_of_one_step_count_each():
    config = default()
    config.train.num_epochs, config.train.batch_size = 10.0, 1024
    config.schedule.name, config.schedule.milestones_epochs = "multistep", (5.0, 5.3)
    length = durations(config, 1_438)
    assert length.milestones == (7, 7)
    rate = make_schedule(config, length)
    assert [float(rate(step)) for step in (6, 7)] == pytest.approx([0.1, 0.001])


def test_the_rate_is_linear_in_the_batch_size():
    found = schedule("cosine", optimizer__learning_rate_batch_size=256, train__batch_size=512)
    check(found, 2 * cosine(STEPS / 300))


GOLDEN_FIELDS = {
    "step": {"schedule__step_every_epochs": 20.0, "schedule__gamma": 0.2},
    "multistep": {"schedule__milestones_epochs": (30, 45)},
    "cosine": {"schedule__final_learning_rate": 0.001},
    "warm_restarts": {
        "schedule__cycle_epochs": 8.0,
        "schedule__cycle_factor": 2.0,
        "schedule__final_learning_rate": 0.001,
    },
    # Their last step is 59 of 60 epochs, so an epoch is a step here.
    "one_cycle": {
        "schedule__initial_learning_rate": 0.004,
        "schedule__final_learning_rate": 0.00004,
    },
    "triangular": {
        "schedule__initial_learning_rate": 0.004,
        "schedule__final_learning_rate": 0.00004,
    },
}


@pytest.mark.parametrize("name", GOLDEN_FIELDS)
def test_epochs_have_pytorchs_rates(name):
    golden = json.loads((REPOSITORY / "tests" / "goldens" / "schedules.json").read_text())
    torch_side = runpy.run_path(str(REPOSITORY / "scripts" / "goldens" / "make_torch_goldens.py"))
    assert torch_side["SCHEDULES"].keys() == GOLDEN_FIELDS.keys()
    per_epoch = 1 if name in ("one_cycle", "triangular") else 5
    config = default()
    config.train.num_steps = torch_side["EPOCHS"] * per_epoch
    config.schedule.name = name
    config.update_from_flattened_dict(
        {k.replace("__", "."): v for k, v in GOLDEN_FIELDS[name].items()}
    )
    function = make_schedule(config, durations(config, per_epoch * config.train.batch_size))
    found = [float(function(epoch * per_epoch)) for epoch in range(torch_side["EPOCHS"])]
    np.testing.assert_allclose(found, golden[name], rtol=1e-5)
