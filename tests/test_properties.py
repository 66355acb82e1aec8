"""Properties that hold for any input, checked by hypothesis."""

import dataclasses
import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxcifar import metrics
from jaxcifar.augment import mixing
from jaxcifar.config import Durations, default, durations
from jaxcifar.config.validation import validate
from jaxcifar.data import cifar_archives, cifar_format, device_pipeline, streams
from jaxcifar.data.datasets import Split, hold_out
from jaxcifar.environment import import_tensorflow
from jaxcifar.errors import InputError
from tests.helpers import make_schedule

tries = settings(
    derandomize=True,
    deadline=None,
    max_examples=30,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**32 - 1)


# Durations ---------------------------------------------------------------------------------------


@tries
@given(st.integers(1, 60), st.integers(1, 12), st.tuples(*[st.integers(0, 12)] * 4))
def test_next_due_is_the_first_step_at_which_something_is_due(num_steps, log, others):
    watch, evaluate, save, keep = others
    length = Durations(
        num_steps=num_steps,
        steps_per_epoch=1.0,
        milestones=(),
        warmup_steps=0,
        step_every=0,
        cycle=0,
        restart=0,
        schedule_length=num_steps,
        eval_every=evaluate,
        checkpoint_every=save,
        keep_every=keep,
        log_every=log,
        layer_stats_every=watch,
    )
    for step in range(num_steps):
        expected = next(s for s in range(step + 1, num_steps + 1) if any(length.due(s)))
        assert length.next_due(step) == expected
    assert length.due(num_steps)[2:] == (True, True)


# Schedules ---------------------------------------------------------------------------------------


MOST_STEPS = 200


@st.composite
def schedules(draw):
    """A config with a schedule of any kind, whose durations are in steps."""
    config = default()
    config.dataset.name = "digits"
    num_steps = config.train.num_steps = draw(st.integers(2, MOST_STEPS))
    schedule = config.schedule
    schedule.name = draw(
        st.sampled_from("constant step multistep cosine warm_restarts one_cycle triangular".split())
    )
    rates = st.floats(1e-4, 1.0)
    config.optimizer.learning_rate = draw(rates)
    if draw(st.booleans()):
        schedule.warmup_steps = draw(st.integers(1, num_steps - 1))
        schedule.warmup_learning_rate = draw(rates)
        schedule.warmup_shape = draw(st.sampled_from(["linear", "constant"]))
    if schedule.name == "step":
        schedule.step_every_steps = draw(st.integers(1, num_steps - 1))
    if schedule.name == "multistep":
        steps = st.sets(st.integers(1, num_steps - 1), min_size=1, max_size=4)
        schedule.milestones_steps = tuple(sorted(draw(steps)))
    if schedule.name in ("step", "multistep"):
        schedule.gamma = draw(st.floats(0.05, 0.95))
    else:
        schedule.final_learning_rate = draw(rates) if schedule.name != "constant" else 0.0
    if schedule.name == "warm_restarts":
        schedule.cycle_steps = draw(st.integers(1, num_steps))
        schedule.cycle_factor = draw(st.floats(1.0, 3.0))
    if schedule.name in ("one_cycle", "triangular"):
        schedule.initial_learning_rate = draw(rates)
        schedule.rise_fraction = draw(st.floats(0.05, 0.95))
    return config


def rate(config, step):
    """The learning rate at a step, computed from the definitions in double precision."""
    schedule, peak, length = config.schedule, config.optimizer.learning_rate, config.train.num_steps
    warmup, first, final = schedule.warmup_steps, 0, schedule.final_learning_rate
    if step < warmup:
        start = schedule.warmup_learning_rate
        return start + (peak - start) * step / warmup * (schedule.warmup_shape == "linear")
    step, steps = step - warmup, length - warmup

    def between(start, end, share):
        if schedule.name == "triangular":
            return start + (end - start) * share
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    if schedule.name == "step":
        return peak * schedule.gamma ** ((step + warmup) // schedule.step_every_steps)
    if schedule.name == "multistep":
        passed = [m for m in schedule.milestones_steps if m <= step + warmup]
        return peak * schedule.gamma ** len(passed)
    if schedule.name == "cosine":
        return between(peak, final, step / steps)
    if schedule.name == "warm_restarts":
        cycle = end = float(schedule.cycle_steps)
        while step >= round(end):
            first = round(end)
            cycle *= schedule.cycle_factor
            end += cycle
        return between(peak, final, (step - first) / (round(end) - first))
    if schedule.name in ("one_cycle", "triangular"):
        top, last = schedule.rise_fraction * steps - 1, steps - 1
        if step < top:
            return between(schedule.initial_learning_rate, peak, step / top)
        if top < 0:  # a rise of less than a step is the first update alone
            if step == 0:
                return schedule.initial_learning_rate
            top = 0
        return between(peak, final, (step - top) / (last - top)) if last > top else peak
    return peak


@settings(tries, max_examples=25)
@given(schedules())
def test_schedules_are_their_definitions_and_stay_in_bounds(config):
    validate(config)
    num_steps = config.train.num_steps
    function = make_schedule(config, durations(config, 1000))
    # Always as many, so that nothing is compiled anew.
    found = np.asarray(jnp.broadcast_to(function(jnp.arange(MOST_STEPS)), MOST_STEPS))[:num_steps]
    expected = np.array([rate(config, step) for step in range(num_steps)])
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)
    schedule, peak = config.schedule, config.optimizer.learning_rate
    ends = [peak, schedule.final_learning_rate, schedule.initial_learning_rate]
    highest = max([*ends, schedule.warmup_learning_rate])
    assert (found >= 0).all() and (found <= highest * (1 + 1e-5)).all()
    if schedule.name == "cosine":  # no jump: the steepest slope of the wave
        after = found[schedule.warmup_steps :]
        slope = math.pi / 2 * abs(peak - schedule.final_learning_rate) / len(after)
        assert (np.abs(np.diff(after)) <= slope * 1.01 + 1e-6).all()


# Splits and orders -------------------------------------------------------------------------------


@tries
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.data(), seeds)
def test_splits_are_complete_disjoint_and_stratified(labels, data, seed):
    size = data.draw(st.integers(0, len(labels) - len(set(labels))))
    whole = Split(np.arange(len(labels)), np.array(labels, np.int32))
    first, second = hold_out(whole, size, seed)
    assert sorted([*first.images, *second.images]) == list(range(len(labels)))
    assert second.size == size
    for part in (first, second):
        assert list(part.images) == sorted(part.images)
        np.testing.assert_array_equal(part.labels, whole.labels[part.images])
    counts = np.bincount(labels)
    shares, held_out = (
        counts * size / len(labels),
        np.bincount(second.labels, minlength=len(counts)),
    )
    assert (held_out[counts > 0] < counts[counts > 0]).all()
    if (shares <= counts - 1)[counts > 0].all():  # else a class gives less, and others more
        assert (np.abs(held_out - shares) < 1).all()
    np.random.seed(seed % 1000)  # what else is drawn from changes nothing
    np.testing.assert_array_equal(hold_out(whole, size, seed)[1].images, second.images)


def assert_permutations(stream, size):
    epochs = stream[: len(stream) // size * size].reshape(-1, size)
    np.testing.assert_array_equal(np.sort(epochs), np.broadcast_to(np.arange(size), epochs.shape))
    # What is left over has nothing twice.
    rest = stream[len(epochs) * size :]
    assert len(set(rest.tolist())) == len(rest)


@settings(tries, max_examples=6)
@given(st.integers(1, 70), st.integers(1, 90), st.integers(1, 3), seeds)
def test_epochs_on_the_device_are_permutations(size, batch_size, max_steps, seed):
    order = device_pipeline.Order(seed, size, batch_size, max_steps)
    stream = []
    for step in range(0, 3 * max_steps, max_steps):
        row, _, position = order.at(step)
        assert position.first == step * batch_size - position.epoch * size
        stream.append(np.asarray(row)[position.first :][: max_steps * batch_size])
    assert_permutations(np.concatenate(stream), size)


@settings(tries, max_examples=12)
@given(st.integers(1, 100), st.integers(1, 64), seeds)
def test_epochs_of_the_host_are_permutations(size, batch_size, seed):
    tf = import_tensorflow()
    key = streams.stream_key(seed, "order")
    steps = range(0, 3 * size, batch_size)
    stream = [
        streams.shuffled(tf.range(start, start + batch_size, dtype=tf.int64), size, key).numpy()
        for start in steps
    ]
    assert_permutations(np.concatenate(stream), size)


# Masks and mixing --------------------------------------------------------------------------------

SLOTS, CLASSES = 8, 7
evaluation_sums = jax.jit(metrics.evaluation_sums)


@tries
@given(seeds, st.lists(st.booleans(), min_size=SLOTS, max_size=SLOTS))
def test_masked_slots_count_for_nothing(seed, mask):
    random = np.random.RandomState(seed)
    logits = random.normal(0, 5, (SLOTS, CLASSES)).astype(np.float32)
    labels, mask = random.randint(0, CLASSES, SLOTS), np.array(mask)
    masked = evaluation_sums(logits, labels, mask)
    # What is in them does not matter, even if it is not finite.
    junk = np.where(mask[:, None], logits, random.choice([np.nan, np.inf, 1e30]))
    for name, value in evaluation_sums(junk, labels, mask).items():
        np.testing.assert_array_equal(value, masked[name], name)
    # The rest alone, one by one.
    total = {}
    for logit, label in zip(logits[mask], labels[mask], strict=True):
        one = evaluation_sums(
            np.broadcast_to(logit, logits.shape), np.repeat(label, SLOTS), np.arange(SLOTS) == 0
        )
        total = metrics.add(total, one)
    for name, value in total.items():
        np.testing.assert_allclose(masked[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    if not mask.any():
        assert all(not np.any(value) for value in masked.values())
        assert np.isnan(metrics.summarize(metrics.add({}, masked))["loss"])


@jax.jit
def mix(key, images, targets):
    alphas = {"mixup_alpha": 0.4, "cutmix_alpha": 1.0}
    return mixing.mix(key, 0, images, targets, **alphas, probability=0.9, cutmix_share=0.5)


@settings(tries, max_examples=60)
@given(seeds)
def test_mixed_targets_are_the_shares_of_the_images(seed):
    height, width = 6, 7
    # Image k has the value 1 in channel k, so that what is left of it is its mean there.
    images = np.zeros((SLOTS, height, width, SLOTS), np.float32)
    images[np.arange(SLOTS), :, :, np.arange(SLOTS)] = 1
    mixed, targets = mix(jax.random.key(seed), images, np.eye(SLOTS))
    np.testing.assert_allclose(np.sum(targets, 1), 1, atol=1e-5)
    np.testing.assert_allclose(targets, np.mean(mixed, (1, 2)), atol=1e-5)


# Records -----------------------------------------------------------------------------------------


@tries
@given(st.sampled_from(cifar_format.FORMATS), st.integers(1, 4), seeds, st.data())
def test_records_are_read_as_written_and_never_in_part(fmt, count, seed, data):
    random = np.random.RandomState(seed)
    labels = [random.randint(0, len(x.class_names), (count, 1)) for x in fmt.labels]
    images = random.randint(0, 256, (count, 3072))
    record = np.concatenate([*labels, images], axis=1).astype(np.uint8).tobytes()
    name = next(iter(fmt.records))
    digest = hashlib.sha256(record).hexdigest()
    small = dataclasses.replace(fmt, records={name: count}, sha256={name: digest})
    cifar_archives.verify(small, name, record)
    length = data.draw(st.integers(0, len(record) - 1))
    with pytest.raises(InputError, match=f"{name}: {length} bytes"):
        cifar_archives.verify(small, name, record[:length])
    column = data.draw(st.integers(0, len(labels) - 1))
    wrong = bytearray(record)
    wrong[column] = data.draw(st.integers(len(fmt.labels[column].class_names), 255))
    with pytest.raises(InputError, match=f"{name}: record 0 has label {wrong[column]}"):
        cifar_archives.verify(small, name, bytes(wrong))
