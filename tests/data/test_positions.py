"""A step's batch follows from the seed and the step alone, in both pipelines."""

import hashlib
import time
from functools import partial

import jax
import numpy as np
import pytest

from jaxcifar.config import default
from jaxcifar.data import device_pipeline, host_pipeline
from jaxcifar.data.split import Split
from jaxcifar.environment import import_tensorflow

SIZE, BATCH = 50, 8
TWO_EPOCHS = 13  # 6.25 steps each
SPLIT = Split(
    np.random.RandomState(0).randint(0, 256, (SIZE, 5, 6, 2), np.uint8),
    np.arange(SIZE, dtype=np.int32),
)


def section():
    config = default().augment
    config.crop_padding, config.horizontal_flip = 2, True
    return config


MAKE = {
    share: jax.jit(partial(device_pipeline.train_batch, share=share, config=section(), seed=3))
    for share in (2, 4, 8)
}


def from_device(first_step, num_steps, *, devices=1, max_steps=1):
    """Yields (images, labels) of each step as bytes, with the devices' shares joined."""
    split = device_pipeline.as_resident(SPLIT)
    order = device_pipeline.Order(3, SIZE, BATCH, max_steps)
    for step in range(first_step, num_steps):
        permutations, _, position = order.at(step)
        make = MAKE[BATCH // devices]
        shares = [make(split, permutations, position, device) for device in range(devices)]
        yield tuple(b"".join(np.array(s[n]).tobytes() for s in shares) for n in ("image", "label"))


def from_tf(first_step, num_steps, *, processes=1):
    """The same by tf.data, with the processes' shares joined."""
    shares = [
        host_pipeline.train_batches(
            SPLIT,
            section(),
            batch_size=BATCH,
            seed=3,
            first_step=first_step,
            num_steps=num_steps,
            process=process,
            num_processes=processes,
        )
        for process in range(processes)
    ]
    for parts in zip(*shares, strict=True):
        yield tuple(b"".join(part[name].tobytes() for part in parts) for name in ("image", "label"))


@pytest.mark.parametrize("pipeline", [from_device, from_tf])
def test_a_run_can_resume_at_every_step_of_two_epochs(pipeline):
    whole = list(pipeline(0, TWO_EPOCHS))
    assert len(set(whole)) == TWO_EPOCHS
    for first in range(1, TWO_EPOCHS):
        assert list(pipeline(first, TWO_EPOCHS)) == whole[first:]


def sha256(batches):
    digest = hashlib.sha256()
    for images, labels in batches:
        digest.update(images + labels)
    return digest.hexdigest()


# Hashes of 1,000 batches. If one changes, earlier runs can be neither repeated nor resumed.
DEVICE_SHA256 = "2c44e019fbf42b2f63e6748b83321466e63790c15b7ab848641d293993975b3c"
TF_SHA256 = "5bb24e39621c424ec9ebf1c58967aaf281d6ef01e47cf1daa8c4d704b72b46b4"


@pytest.mark.parametrize(
    "division", [{}, {"devices": 2}, {"devices": 4}, {"devices": 2, "max_steps": 20}], ids=str
)
def test_the_device_pipeline_is_the_same_however_it_is_divided(division):
    assert sha256(from_device(0, 1000, **division)) == DEVICE_SHA256


@pytest.mark.parametrize("ahead", [None, 1, 7])
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_tf_data_is_the_same_with_any_threads_and_prefetch(ahead, threads, monkeypatch):
    tf = import_tensorflow()
    if ahead:
        monkeypatch.setattr(tf.data, "AUTOTUNE", ahead)
    if threads:
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        make_range = tf.data.Dataset.range
        in_threads = staticmethod(lambda *bounds: make_range(*bounds).with_options(options))
        monkeypatch.setattr(tf.data.Dataset, "range", in_threads)
    assert sha256(from_tf(0, 1000)) == TF_SHA256


def test_tf_data_is_the_same_in_two_processes():
    assert sha256(from_tf(0, 1000, processes=2)) == TF_SHA256


@pytest.mark.parametrize("pipeline", [from_device, from_tf])
def test_a_start_after_a_million_steps_is_as_fast(pipeline):
    seconds = {}
    for first in (7, 0, 1_000_000):  # 7: compiles
        start = time.process_time()  # of this process, whatever the load of the machine
        assert len(list(pipeline(first, first + 2))) == 2
        seconds[first] = time.process_time() - start
    assert seconds[1_000_000] < seconds[0] + 1
