"""NaN and infinity, injected into a step in every place where they can arise."""

import dataclasses
import errno
import json
import os
import re
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxcifar import devices, steps
from jaxcifar import run as run_module
from jaxcifar import train as train_module
from jaxcifar.config import default, durations
from jaxcifar.errors import StoppedError
from jaxcifar.evaluate import Evaluator
from jaxcifar.optim.loss_scale import LossScale
from jaxcifar.optim.optimizers import create_optimizer, with_learning_rate
from jaxcifar.optim.schedules import with_rollback_factors
from jaxcifar.program import create_program, create_state
from jaxcifar.resilience import integrity, nonfinite
from jaxcifar.resilience.manifest import read
from jaxcifar.resilience.nonfinite import NonFinite
from jaxcifar.steps import TrainStep
from jaxcifar.train import train
from tests.helpers import assert_same_bits, make_config, read_metrics, restore, saved_steps

pytestmark = pytest.mark.usefixtures("tiny")


@jax.custom_vjp
def without_gradient(x):
    return x


without_gradient.defvjp(lambda x: (x, None), lambda _, gradient: (gradient * jnp.nan,))


class Network(nn.Module):
    """A network with a hidden layer of four features; its gradient is NaN with `bad_gradient`."""

    bad_gradient: bool = False

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dense(4)(images.reshape(len(images), -1))
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dense(3)(x)
        return without_gradient(x) if self.bad_gradient else x


def infinite_loss(*arguments):
    sums = infinite_loss.original(*arguments)
    return sums | {"loss": sums["loss"] + jnp.inf}


infinite_loss.original = steps.batch_sums


def one_step(place, optimizer, *, scale=None, **fields):
    """Returns the state before and after a step with a non-finite number, and the step's sums."""
    model = Network(bad_gradient=place == "gradient")
    state = create_state(model, optimizer, (2, 2, 1), seed=0, ema=True)
    if place == "parameter":
        state.params["Dense_0"]["kernel"] = state.params["Dense_0"]["kernel"].at[1, 2].set(jnp.nan)
    if place == "statistic":
        variance = state.batch_stats["BatchNorm_0"]["var"]
        state.batch_stats["BatchNorm_0"]["var"] = variance.at[3].set(jnp.inf)
    if scale:
        state = state.replace(loss_scale=LossScale(jnp.float32(scale), jnp.int32(0)))
    step = jax.pmap(
        TrainStep(
            model=model,
            optimizer=optimizer,
            learning_rate=lambda step: 0.1,
            augment=lambda key, device, images, labels, mask: (images / 255, None),
            seed=0,
            axis_name="b",
            ema_decay=0.9,
            **fields,
        ),
        axis_name="b",
        devices=jax.devices()[:1],
    )
    images = np.random.RandomState(0).randint(0, 256, (1, 6, 2, 2, 1), np.uint8)
    labels = np.array([[0, 1, 2, 0, 1, 2]], np.int32)
    batch = {"image": images, "label": labels, "mask": np.ones((1, 6), bool)}
    after, sums, _ = step(jax.tree.map(lambda x: x[None], state), batch)
    state, after, sums = jax.device_get((state, after, sums))
    return state, jax.tree.map(lambda x: x[0], after), {k: float(v[0]) for k, v in sums.items()}


PLACES = ("loss", "gradient", "parameter", "statistic")


def optimizer(name, **fields):
    config = default().optimizer
    config.update({"name": name, **fields})
    return create_optimizer(config, durations(make_config(), train_size=100))


@pytest.mark.parametrize(
    "place, name",
    [(place, "sgd") for place in PLACES]
    + [("gradient", name) for name in ("clipped", "adamw", "plain")],
)
def test_a_number_that_is_not_finite_is_counted_wherever_it_is(place, name, monkeypatch):
    made = {
        "sgd": lambda: optimizer("sgd"),
        "clipped": lambda: optimizer("sgd", clip_global_norm=1.0),
        "adamw": lambda: optimizer("adamw"),
        "plain": lambda: with_learning_rate(optax.identity()),
    }[name]()
    if place == "loss":
        monkeypatch.setattr(steps, "batch_sums", infinite_loss)
    _, after, sums = one_step(place, made)
    assert sums["nonfinite"] == 1 and after.step == 1
    if place != "loss":
        assert nonfinite.describe(after)


def test_a_step_of_finite_numbers_is_not_counted():
    state, after, sums = one_step("nowhere", optimizer("sgd"), skip_nonfinite=True)
    assert sums["nonfinite"] == 0 and nonfinite.describe(after) == []
    assert not np.array_equal(
        after.params["Dense_0"]["kernel"], np.array(state.params["Dense_0"]["kernel"])
    )


@pytest.mark.parametrize("place", PLACES)
def test_a_skipped_update_is_left_out_as_a_whole(place, monkeypatch):
    if place == "loss":
        monkeypatch.setattr(steps, "batch_sums", infinite_loss)
    state, after, sums = one_step(place, optimizer("adamw"), skip_nonfinite=True)
    assert sums["nonfinite"] == 1 and (state.step, after.step) == (0, 1)
    jax.tree.map(np.testing.assert_array_equal, state.replace(step=1), after.replace(step=1))


def test_an_overflow_is_an_error_only_at_the_smallest_loss_scale():
    state, after, sums = one_step("gradient", optimizer("sgd"), scale=4.0)
    assert sums["nonfinite"] == 0 and sums["left_out"] == 1 and after.loss_scale.scale == 2
    jax.tree.map(np.testing.assert_array_equal, state.params, after.params)
    jax.tree.map(np.testing.assert_array_equal, state.ema, after.ema)
    _, _, sums = one_step("gradient", optimizer("sgd"), scale=1.0)
    assert sums["nonfinite"] == 1 and sums["left_out"] == 0
    _, _, sums = one_step("statistic", optimizer("sgd"), scale=4.0)
    assert sums["nonfinite"] == 1


def test_layers_are_named():
    state, _, _ = one_step("parameter", optimizer("sgd"))
    assert nonfinite.describe(state) == ["params in 1 of 3 layers: Dense_0"]
    state, _, _ = one_step("statistic", optimizer("sgd"))
    assert nonfinite.describe(state) == ["batch_stats in 1 of 1 layers: BatchNorm_0"]
    with pytest.raises(NonFinite, match="step 5: the state is not finite; batch_stats in 1 of 1"):
        nonfinite.check_state(5, state)


# Whole runs of a network with four layers.


def small_run(**fields):
    config = default()
    config.dataset.name = "digits"
    config.augment.crop_padding = 1
    config.augment.horizontal_flip = False
    config.model.name = "tiny"
    config.train.num_steps = 14
    config.train.batch_size = 32
    config.eval.every_steps = 14
    config.checkpoint.every_steps = 5
    config.checkpoint.keep_every_steps = 5
    config.log.every_steps = 5
    config.log.tensorboard = False
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return config


@pytest.fixture
def spoil(monkeypatch):
    """Replaces the images of given steps by NaN."""

    def spoil(*bad_steps):
        def create(*arguments):
            program = create_program(*arguments)
            augment = program.train_step.augment

            def spoiled_step(state, batch):
                def spoiled(*arguments):
                    images, targets = augment(*arguments)
                    bad = jnp.isin(state.step + 1, jnp.array(bad_steps))
                    return jnp.where(bad, jnp.nan, images), targets

                return dataclasses.replace(program.train_step, augment=spoiled)(state, batch)

            return dataclasses.replace(program, train_step=spoiled_step)

        monkeypatch.setattr(train_module, "create_program", create)

    return spoil


def saved(config, workdir):
    """Returns the contents of a run's checkpoints by step."""
    return {step: restore(config, workdir, step) for step in saved_steps(workdir)}


def assert_all_finite(checkpoints):
    for restored in checkpoints.values():
        for leaf in jax.tree.leaves(restored.state):
            assert np.isfinite(leaf).all()
        assert np.isfinite(list(restored.progress.train_sums.values())).all()


@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_a_run_stops_at_a_non_finite_step_and_does_not_save_it(steps_per_call, spoil, tmp_path):
    spoil(7)
    config = small_run(train__steps_per_call=steps_per_call, train__ema_decay=0.9)
    with pytest.raises(NonFinite) as caught:
        train(config, tmp_path)
    message = str(caught.value)
    assert re.match(r"step 7: not finite, with a loss of .*; params in \d of 4 layers: ", message)
    assert f"last good checkpoint: {tmp_path}/checkpoints/5\n" in message
    assert len(message.splitlines()) < 6
    found = saved(config, tmp_path)
    assert list(found) == [5]
    assert_all_finite(found)


class Killed(BaseException):
    pass


def test_skipped_steps_are_counted_across_a_restart(spoil, tmp_path, monkeypatch):
    spoil(3, 9)
    config = small_run(
        train__on_nonfinite="skip",
        train__steps_per_call=4,
        train__ema_decay=0.9,
        dataset__validation_size=100,
        eval__every_steps=5,
        train__early_stopping_patience=9,
        train__early_stopping_min_delta=0.9,  # so that the first score remains the reference
    )
    train(config, tmp_path / "unbroken")

    class RunLogger(run_module.RunLogger):
        def log_train(self, step, *arguments):
            super().log_train(step, *arguments)
            if step == 10:
                raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "RunLogger", RunLogger)
        with pytest.raises(Killed):
            train(config, tmp_path / "broken")
    train(config, tmp_path / "broken")
    one, other = (saved(config, tmp_path / name) for name in ("unbroken", "broken"))
    assert one[14].progress == other[14].progress and one[14].progress.skipped_steps == 2
    assert one[14].progress.best_step and one[14].progress.stale_evaluations == 2
    assert_same_bits(one[14].state, other[14].state)
    assert_all_finite(one)
    found = read_metrics(tmp_path / "broken")
    assert found == read_metrics(tmp_path / "unbroken")
    assert [row["skipped_steps"] for row in found if row["split"] == "train"] == ["1", "2", "2"]


def test_skipped_steps_are_bounded():
    config = small_run(train__on_nonfinite="skip", train__nonfinite_limit=3)
    sums = [{"nonfinite": bad, "loss": 1.0, "count": 1.0} for bad in (1, 0, 1)]
    nonfinite.check_steps(config.train, 6, sums, 1, None)
    with pytest.raises(NonFinite, match="step 9: not finite again; 3 .*train.nonfinite_limit = 3"):
        nonfinite.check_steps(config.train, 6, sums, 2, None)


def diverging(**fields):
    """Returns a run that diverges after its warm-up unless the learning rate is lowered."""
    return small_run(
        schedule__warmup_steps=5,
        schedule__warmup_shape="constant",
        schedule__warmup_learning_rate=0.05,
        optimizer__learning_rate=1e30,
        train__on_nonfinite="rollback",
        train__rollback_factor=1e-31,
        **fields,
    )


def test_a_rollback_ends_with_the_same_bits_wherever_it_is_killed(tmp_path, monkeypatch):
    config = diverging()
    train(config, tmp_path / "unbroken")
    manifest = json.loads((tmp_path / "unbroken" / "manifest.json").read_text())
    (rollback,) = manifest["rollbacks"]
    assert (rollback["to_step"], rollback["rate_factor"]) == (5, 1e-31)
    assert 5 < rollback["step"] < 10
    one = saved(config, tmp_path / "unbroken")
    assert_all_finite(one)
    rates = [
        r["learning_rate"] for r in read_metrics(tmp_path / "unbroken") if r["split"] == "train"
    ]
    assert rates == ["0.05", "0.1", "0.1"]

    update = nonfinite.update

    def killed_before(*arguments, **entries):
        raise Killed

    def killed_after(*arguments, **entries):
        update(*arguments, **entries)
        raise Killed

    for killed in killed_before, killed_after:
        with monkeypatch.context() as patched:
            patched.setattr(nonfinite, "update", killed)
            with pytest.raises(Killed):
                train(config, tmp_path / "broken")
    train(config, tmp_path / "broken")
    other = saved(config, tmp_path / "broken")
    assert one.keys() == other.keys()
    assert_same_bits(one[14].state, other[14].state)
    assert read_metrics(tmp_path / "unbroken") == read_metrics(tmp_path / "broken")
    manifest = json.loads((tmp_path / "broken" / "manifest.json").read_text())
    assert manifest["rollbacks"] == [rollback]


@pytest.fixture
def spoil_saves(monkeypatch):
    """Calls a function in the save of a given step, before its manifest is written."""

    def spoil(bad_step, act):
        def seal(part, content):
            if content["step"] == bad_step:
                act()
            return write(part, content)

        write = integrity.seal
        monkeypatch.setattr(integrity, "seal", seal)

    return spoil


def no_space():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_rollback_returns_to_a_checkpoint_on_the_disk(tmp_path, spoil_saves):
    spoil_saves(5, no_space)
    train(diverging(checkpoint__on_error="continue"), tmp_path)
    (rollback,) = json.loads((tmp_path / "manifest.json").read_text())["rollbacks"]
    assert rollback["to_step"] == 0
    rates = [row["learning_rate"] for row in read_metrics(tmp_path) if row["split"] == "train"]
    assert rates == ["5e-33", "0.1", "0.1"]  # lowered from the first step


def test_a_run_stops_instead_of_rolling_back_while_a_save_is_in_progress(tmp_path, spoil_saves):
    go_on = threading.Event()
    spoil_saves(5, go_on.wait)
    config = diverging(checkpoint__on_error="continue", checkpoint__timeout_seconds=0.2)
    try:
        with pytest.raises(StoppedError, match="not finite.*\n.*checkpoint is still") as caught:
            train(config, tmp_path)
    finally:
        go_on.set()
    assert caught.value.at_once and "rollbacks" not in read(tmp_path)


@pytest.mark.parametrize("bad_step, code", [(13, 0), (14, 1)])
def test_with_on_error_continue_only_a_failed_last_save_stops_the_run(
    tmp_path, spoil_saves, capsys, bad_step, code
):
    def fail():
        time.sleep(1)  # until the last step has run
        no_space()

    spoil_saves(bad_step, fail)
    config = small_run(checkpoint__every_steps=13, checkpoint__on_error="continue")
    said = f"checkpoint {bad_step} could not be written: No space left on device"
    if code:
        with pytest.raises(StoppedError, match=said):
            train(config, tmp_path)
    else:
        train(config, tmp_path)
        assert f"warning: {said}" in capsys.readouterr().out
    assert (14 in saved(config, tmp_path)) == ("end" in read(tmp_path)) == (not code)


def test_a_long_row_of_updates_left_out_is_named_with_the_scale(spoil, tmp_path, capsys):
    spoil(*range(2, 9))
    train(small_run(train__precision="float16", train__num_steps=10, log__every_steps=20), tmp_path)
    assert (
        "warning: step 8: 7 updates in a row were left out because their gradients overflowed; the "
        "loss scale is now 512\n" in capsys.readouterr().out
    )


def test_a_row_is_named_again_when_it_is_twice_as_long():
    row, named = nonfinite.LeftOutRow(), []
    for step, left_out in enumerate([1] * 4 + [0] + [1] * 12 + [0] + [1] * 5):
        row.add(step, [{"left_out": left_out}])
        if warning := row.warning():
            named.append(warning.split(" updates")[0])
    assert named == ["step 10: 5", "step 15: 10", "step 23: 5"]
    row.add(23, [{"loss": 1.0}] + 5 * [{"left_out": 1.0}] + [{"left_out": 0.0}])
    assert row.warning().startswith("step 29: 5 updates") and not row.warning()


@pytest.fixture
def spoil_evaluations(monkeypatch):
    """Makes the test loss NaN at given steps, at each as often as it is listed."""

    def spoil(*bad_steps):
        steps = list(bad_steps)

        def evaluate(self, state):
            results = call(self, state)
            if (step := int(devices.fetch(state.step))) in steps:
                steps.remove(step)
                results["test"]["loss"] = float("nan")
            return results

        call = Evaluator.__call__
        monkeypatch.setattr(Evaluator, "__call__", evaluate)

    return spoil


@pytest.mark.parametrize("on_nonfinite, bad_step", [("stop", 5), ("skip", 14)])
def test_an_evaluation_that_is_not_finite_stops_a_run(
    on_nonfinite, bad_step, spoil_evaluations, tmp_path
):
    spoil_evaluations(5, bad_step)
    config = small_run(train__on_nonfinite=on_nonfinite, eval__every_steps=5)
    message = rf"step {bad_step}: the evaluation is not finite: test \(loss nan\)\nThe run has"
    with pytest.raises(NonFinite, match=message):
        train(config, tmp_path)
    assert max(saved_steps(tmp_path), default=0) < bad_step and "end" not in read(tmp_path)


def test_an_evaluation_before_the_end_is_passed_over_with_skip_or_rolled_back(
    spoil_evaluations, tmp_path, capsys
):
    spoil_evaluations(10, 10)
    train(small_run(train__on_nonfinite="skip", eval__every_steps=5), tmp_path / "skip")
    assert "warning: step 10: the evaluation is not finite: test" in capsys.readouterr().out
    train(small_run(train__on_nonfinite="rollback", eval__every_steps=5), tmp_path / "back")
    (rollback,) = read(tmp_path / "back")["rollbacks"]
    assert (rollback["step"], rollback["to_step"]) == (10, 5)
    assert read(tmp_path / "back")["end"]["step"] == read(tmp_path / "skip")["end"]["step"] == 14


def test_rollbacks_are_bounded_and_add_up(tmp_path):
    config = small_run(train__on_nonfinite="rollback", train__nonfinite_limit=2)
    factors = []
    for step in 7, 9:
        error = NonFinite(step, "not finite")
        factors = nonfinite.roll_back(config.train, tmp_path, factors, error, 5)
        assert nonfinite.rate_factors(tmp_path) == factors
    assert factors == [(5, 0.5), (5, 0.5)]
    rate = with_rollback_factors(lambda step: 0.1, factors)
    assert [float(rate(step)) for step in (4, 5, 6)] == pytest.approx([0.1, 0.025, 0.025])
    for saved, named in (
        (5, f"{tmp_path}/checkpoints/5"),
        (0, f"{tmp_path}/checkpoints/0"),
        (-1, "none"),
    ):
        message = f"after 2 rollbacks; last good checkpoint: {named}\n"
        with pytest.raises(NonFinite, match=message):
            nonfinite.roll_back(config.train, tmp_path, factors, error, saved)


def test_a_state_that_is_not_finite_is_never_saved(tmp_path, monkeypatch):
    fetch = devices.fetch

    def corrupted(tree):
        tree = fetch(tree)
        if isinstance(tree, steps.TrainState):
            jax.tree.leaves(tree.opt_state)[3][...] = np.inf
        return tree

    monkeypatch.setattr(devices, "fetch", corrupted)
    with pytest.raises(NonFinite, match="step 5: the state is not finite; opt_state in 1 of"):
        train(small_run(), tmp_path)
    assert saved(small_run(), tmp_path) == {}
