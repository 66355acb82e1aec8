import jax
import numpy as np
import pytest

from jaxcifar import parallel
from jaxcifar.errors import InputError


def test_arrays_go_to_every_device_and_come_back_as_copies():
    tree = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3), "step": np.int32(3)}
    on_devices = parallel.replicate(tree)
    assert on_devices["w"].shape == (jax.device_count(), 2, 3)
    back = parallel.fetch(on_devices)
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    assert back["w"].flags.owndata and back["w"].flags.writeable


def test_batches_are_split_in_order_over_the_devices():
    batches = [{"label": np.arange(8) + k} for k in range(5)]
    seen = list(parallel.prefetch(batches))
    assert len(seen) == 5
    for batch, array in zip(batches, seen, strict=True):
        assert array["label"].shape == (jax.device_count(), 8 // jax.device_count())
        np.testing.assert_array_equal(np.ravel(array["label"]), batch["label"])


def test_batch_sizes_must_suit_the_devices():
    parallel.check_batch_size("train.batch_size", 4)
    with pytest.raises(InputError, match="train.batch_size = 5: .* multiple .* devices, 2"):
        parallel.check_batch_size("train.batch_size", 5)
    assert [parallel.round_up_batch_size(size) for size in (1, 2, 3)] == [2, 2, 4]


def test_nothing_is_compiled_twice(caplog):
    step = parallel.map_train_step(lambda state, batch: (state + 1, {"n": batch["label"].sum()}))
    state = parallel.replicate(np.float32(0))
    with jax.log_compiles():
        for batch in parallel.prefetch([{"label": np.arange(4)}] * 3):
            state, _ = step(state, batch)
    compiled = [
        r.getMessage() for r in caplog.records if "Finished XLA compilation" in r.getMessage()
    ]
    assert len(compiled) == 1, compiled
