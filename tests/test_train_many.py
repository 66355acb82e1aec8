"""Runs that one program trains, held against the same runs trained alone."""

import signal
from functools import partial

import jax
import numpy as np
import pytest

from jaxcifar import devices, feed, stacking, train_many
from jaxcifar.config import default, durations
from jaxcifar.config.fields import FIELDS
from jaxcifar.data import datasets
from jaxcifar.errors import IN_USE, InputError
from jaxcifar.resilience import manifest
from jaxcifar.resilience.lock import WriterLock
from jaxcifar.traced import HOST, TRACED, is_on, obstacles, sets_rate
from jaxcifar.train import train
from tests.helpers import assert_same_bits, read_metrics, restore, saved_steps

pytestmark = pytest.mark.usefixtures("tiny")

STEPS = 12
MUON = {"optimizer.name": "muon", "optimizer.learning_rate": 0.02}
ADAMW = {"optimizer.name": "adamw", "optimizer.learning_rate": 0.01}
COSINE = {"schedule.name": "cosine"}
MIXUP = {"augment.mixup_alpha": 0.5}
CUTMIX = {"augment.cutmix_alpha": 1.0}
LOOKAHEAD = {"optimizer.lookahead_interval": 3}
WARM_UP = {"schedule.warmup_steps": 4}

# By field: two values, other fields, and whether compilers leave no difference. Where they do, a
# constant of the program is folded in double precision, and an argument is not.
CASES = {
    "train.seed": ((0, 2**32 - 1), {}, True),
    "train.label_smoothing": ((0.1, 0.2), {}, False),
    "train.ema_decay": ((0.9, 0.5), {}, False),
    "optimizer.momentum": ((0.0, 0.9), {}, True),
    "optimizer.beta1": ((0.9, 0.8), ADAMW, False),
    "optimizer.beta2": ((0.999, 0.99), ADAMW, False),
    "optimizer.epsilon": ((1e-8, 1e-3), ADAMW, False),
    "optimizer.weight_decay": ((1e-4, 0.01), {}, True),
    "optimizer.clip_global_norm": ((0.1, 1.0), {}, False),
    "optimizer.muon_momentum": ((0.95, 0.8), MUON, False),
    "optimizer.lookahead_keep": ((0.5, 0.9), LOOKAHEAD, False),
    "optimizer.lookahead_power": ((1.0, 3.0), LOOKAHEAD, False),
    "augment.magnitude": ((5, 14), {"augment.policy": "randaugment"}, True),
    "augment.cutout_size": ((2, 5), {}, True),
    "augment.erasing_probability": ((0.2, 0.7), {}, True),
    "augment.mixup_alpha": ((0.2, 1.0), {}, False),
    "augment.cutmix_alpha": ((0.5, 1.0), {}, False),
    "augment.mix_probability": ((0.3, 0.8), MIXUP, False),
    "augment.cutmix_share": ((0.3, 0.8), MIXUP | CUTMIX, False),
    "optimizer.learning_rate": ((0.1, 0.01), COSINE, True),
    "optimizer.learning_rate_batch_size": ((0, 64), {}, True),
    "schedule.name": (("linear", "cosine"), {}, True),
    "schedule.gamma": ((0.1, 0.5), {"schedule.name": "step", "schedule.step_every_steps": 4}, True),
    "schedule.milestones_steps": (((3, 6), (5, 8)), {"schedule.name": "multistep"}, True),
    "schedule.warmup_steps": ((2, 6), COSINE, True),
    "schedule.warmup_learning_rate": ((0.0, 0.01), WARM_UP, True),
    "schedule.rise_fraction": ((0.2, 0.6), {"schedule.name": "one_cycle"}, True),
}


def small_run(fields=(), /, **more):
    config = default()
    config.dataset.name = "digits"
    config.augment.crop_padding = 1
    config.augment.horizontal_flip = False
    config.model.name = "tiny"
    config.train.num_steps = STEPS
    config.train.batch_size = 32
    config.log.every_steps = 3
    config.eval.every_steps = 4
    config.checkpoint.every_steps = 4
    config.log.tensorboard = False
    config.update_from_flattened_dict(dict(fields))
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in more.items()})
    return config


def assert_same_run(config, one, other, *, exact=True, step=STEPS):
    """Asserts that two workdirs hold the same run."""
    here, there = restore(config, one, step), restore(config, other, step)
    if exact:
        assert_same_bits(here.state, there.state)
        assert here.progress == there.progress
        assert read_metrics(one) == read_metrics(other)
    else:
        state, wanted = here.state, there.state
        print(
            "DIFF",
            float(np.abs(flat(state.params) - flat(wanted.params)).max()),
            float(np.abs(flat(wanted.params)).max()),
        )
        np.testing.assert_allclose(flat(state.params), flat(wanted.params), rtol=2e-3, atol=2e-5)
    ends = [manifest.read(workdir)["end"] for workdir in (one, other)]
    assert [end["step"] for end in ends] == [step, step]


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def train_at_once(configs, parent, at_once=0):
    runs = [(config, parent / f"run{number}") for number, config in enumerate(configs)]
    lines = []
    return train_many.train_many(runs, at_once, lines.append), lines


@pytest.mark.parametrize("way", ["in turn", pytest.param("vmap", marks=pytest.mark.slow)])
def test_runs_equal_runs_alone_to_the_bit(way, tmp_path, monkeypatch):
    if way == "vmap":  # as on a GPU
        vmapped = partial(jax.vmap, in_axes=(0, 0, None, 0, None))
        monkeypatch.setattr(feed, "for_each_run", vmapped)
    configs = [
        small_run(train__seed=0),
        small_run(train__seed=7, optimizer__learning_rate=0.03, optimizer__momentum=0.5),
        small_run(COSINE, train__seed=2**32 - 1, optimizer__weight_decay=0.01),
    ]
    outcomes, lines = train_at_once(configs, tmp_path)
    assert [(outcome.code, outcome.message) for outcome in outcomes] == [(0, "")] * 3
    assert "3 runs in one program, from step 0" in lines
    for number, config in enumerate(configs):
        train(config, tmp_path / f"alone{number}")
        assert_same_run(config, tmp_path / f"run{number}", tmp_path / f"alone{number}")
        log = (tmp_path / f"run{number}.log").read_text()
        assert f"step {STEPS}/{STEPS}" in log and "done: test" in log
    parameters = [restore(config, tmp_path / f"run{i}", STEPS) for i, config in enumerate(configs)]
    assert not np.array_equal(flat(parameters[0].state), flat(parameters[1].state))


@pytest.mark.slow
@pytest.mark.parametrize("field", CASES)
def test_every_field_that_may_vary(field, tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "for_each_run", partial(jax.vmap, in_axes=(0, 0, None, 0, None)))
    values, others, exact = CASES[field]
    configs = [small_run(others | {field: value}) for value in values]
    outcomes, _ = train_at_once(configs, tmp_path)
    assert [outcome.code for outcome in outcomes] == [0, 0]
    for number, config in enumerate(configs):
        train(config, tmp_path / f"alone{number}")
        one, other = tmp_path / f"run{number}", tmp_path / f"alone{number}"
        assert_same_run(config, one, other, exact=exact)
    last = [read_metrics(tmp_path / f"run{number}")[-1] for number in (0, 1)]
    assert last[0] != last[1]


def test_all_traced_fields_have_a_case():
    assert set(TRACED) <= set(CASES)
    assert set(TRACED) | HOST <= set(FIELDS)


def test_a_run_that_diverges_leaves_the_others_as_they_are(tmp_path):
    configs = [
        small_run(),
        small_run(optimizer__learning_rate=1e30),
        small_run(optimizer__learning_rate=0.05),
    ]
    outcomes, _ = train_at_once(configs, tmp_path)
    assert [outcome.code for outcome in outcomes] == [0, 1, 0]
    assert (
        "not finite" in outcomes[1].message and "not finite" in (tmp_path / "run1.log").read_text()
    )
    assert "end" not in manifest.read(tmp_path / "run1")
    for number in (0, 2):
        train(configs[number], tmp_path / f"alone{number}")
        one, other = tmp_path / f"run{number}", tmp_path / f"alone{number}"
        assert_same_run(configs[number], one, other)


@pytest.mark.slow
def test_a_rollback_concerns_one_run(tmp_path):
    rollback = {"train.on_nonfinite": "rollback", "train.rollback_factor": 1e-31}
    configs = [
        small_run(rollback),
        small_run(rollback, optimizer__learning_rate=1e30),
    ]
    outcomes, lines = train_at_once(configs, tmp_path)
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert "1 run in one program, from step 0" in lines
    for number, config in enumerate(configs):
        train(config, tmp_path / f"alone{number}")
        assert_same_run(config, tmp_path / f"run{number}", tmp_path / f"alone{number}")
    rollbacks = [manifest.read(tmp_path / name).get("rollbacks") for name in ("run1", "alone1")]
    assert rollbacks[0] == rollbacks[1] and len(rollbacks[0]) == 1


@pytest.mark.slow
def test_a_run_that_stops_early_is_left_out(tmp_path):
    validated = {"dataset.validation_size": 100, "train.early_stopping_patience": 9}
    stopping = {"train.early_stopping_patience": 1, "train.early_stopping_min_delta": 0.99}
    configs = [small_run(validated, train__seed=seed) for seed in range(4)]
    for number in (0, 2):
        configs[number].update_from_flattened_dict(stopping)
    outcomes, lines = train_at_once(configs, tmp_path)
    assert [outcome.code for outcome in outcomes] == [0] * 4
    # Half have ended after two evaluations, and the program of the others is smaller.
    assert [line for line in lines if "one program" in line] == [
        "4 runs in one program, from step 0",
        "2 runs in one program, from step 8",
    ]
    for number, config in enumerate(configs):
        train(config, tmp_path / f"alone{number}")
        step = 8 if number in (0, 2) else STEPS
        one, other = tmp_path / f"run{number}", tmp_path / f"alone{number}"
        assert_same_run(config, one, other, step=step)


def test_a_signal_saves_all_runs_which_resume_in_other_numbers(tmp_path, monkeypatch):
    configs = [small_run(train__seed=seed) for seed in range(3)]

    def interrupt(attempt):
        if attempt.step == 6:
            attempt.signals.received = signal.SIGTERM
        return real(attempt)

    real = train_many.do_due
    with monkeypatch.context() as patched:
        patched.setattr(train_many, "do_due", interrupt)
        outcomes, _ = train_at_once(configs, tmp_path, at_once=2)
    assert [outcome.code for outcome in outcomes] == [128 + signal.SIGTERM] * 2
    assert all("interrupted by SIGTERM at step 6" in outcome.message for outcome in outcomes)
    assert [saved_steps(tmp_path / f"run{number}")[-1] for number in range(2)] == [6] * 2
    assert not (tmp_path / "run2").exists()
    outcomes, lines = train_at_once(configs, tmp_path)
    assert [outcome.code for outcome in outcomes] == [0] * 3
    # Runs at different steps are trained apart.
    assert [line for line in lines if "one program" in line] == [
        "1 run in one program, from step 0",
        "2 runs in one program, from step 6",
    ]
    for number, config in enumerate(configs):
        train(config, tmp_path / f"alone{number}")
        assert_same_bits(
            restore(config, tmp_path / f"run{number}", STEPS).state,
            restore(config, tmp_path / f"alone{number}", STEPS).state,
        )


def test_a_run_in_use_is_left_to_its_owner(tmp_path):
    configs = [small_run(train__seed=seed) for seed in range(2)]
    with WriterLock(tmp_path / "run0") as lock:
        lock.acquire()
        outcomes, _ = train_at_once(configs, tmp_path)
    assert [outcome.code for outcome in outcomes] == [IN_USE, 0]
    assert "is being written to" in outcomes[0].message


def test_runs_that_cannot_share_a_program_are_refused(tmp_path):
    for other, message in (
        (small_run(train__num_steps=9), "run1: must have the train.num_steps of .*run0 to share"),
        (small_run(optimizer__weight_decay=0.0), "must have the optimizer.weight_decay"),
    ):
        with pytest.raises(InputError, match=message):
            train_at_once([small_run(), other], tmp_path)
    assert not list(tmp_path.iterdir())


def test_batches_of_tensorflow_are_refused(tmp_path):
    pytest.importorskip("tensorflow")
    with pytest.raises(InputError, match="dataset.pipeline = 'tf': must be 'device'"):
        train_at_once([small_run(dataset__pipeline="tf")] * 2, tmp_path)
    assert not list(tmp_path.iterdir())


def test_obstacles_are_the_fields_that_decide_what_is_built():
    config = small_run(train__label_smoothing=0.1)
    assert obstacles(config, small_run(train__label_smoothing=0.3, train__seed=3)) == []
    assert obstacles(config, small_run(COSINE, optimizer__momentum=0.0)) == [
        "train.label_smoothing"
    ]
    deeper = small_run(model__depth=8, train__label_smoothing=0.1, eval__every_steps=3)
    assert sorted(obstacles(config, deeper)) == ["eval.every_steps", "model.depth"]
    assert sets_rate("schedule.name") and not sets_rate("optimizer.momentum")
    assert [is_on(number) for number in (0, 0.0, 1, 0.1, np.float32(0))] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_the_memory_decides_how_many_fit(tmp_path, monkeypatch):
    configs = [small_run(train__seed=seed) for seed in range(4)]
    split = datasets.load(configs[0].dataset)["train"]
    facts = split, datasets.info(configs[0].dataset), durations(configs[0], split.size)
    one, two, four = (stacking.memory_needed(configs[:n], *facts) for n in (1, 2, 4))
    assert one < two < four
    monkeypatch.setattr(devices, "free_memory", lambda: (two + (two - one) / 2) / 0.9)
    assert stacking.number_at_once(0, configs, *facts)[0] == 2
    with pytest.raises(InputError, match=r"--vmap=4: 4 runs at once need .* must be at most 2"):
        stacking.number_at_once(4, configs, *facts)
    monkeypatch.setattr(devices, "free_memory", lambda: 100 * four)
    assert stacking.number_at_once(0, configs, *facts)[0] == 4
    assert stacking.number_at_once(3, configs, *facts)[0] == 3
