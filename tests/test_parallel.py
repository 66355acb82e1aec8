import csv
import socket

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


@pytest.mark.slow
def test_two_processes_give_the_result_of_one_with_two_devices(start_main, tmp_path):
    run = [
        "--config=configs/quickstart.py",
        "--config.model.name=resnet8",
        "--config.train.num_epochs=0",
        "--config.train.num_steps=8",
        "--config.optimizer.learning_rate=0.01",  # rounding grows slowly
        "--config.log.every_steps=1",
        "--config.schedule.name=constant",
        "--config.schedule.milestones_epochs=()",
        "--config.log.tensorboard=False",
    ]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = [
        start_main(
            *run,
            "--config.train.distributed=True",
            f"--workdir={tmp_path / 'two'}",
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(process),
        )
        for process in range(2)
    ]
    processes.append(
        start_main(
            *run,
            f"--workdir={tmp_path / 'one'}",
            XLA_FLAGS="--xla_force_host_platform_device_count=2",
        )
    )
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert "test loss" in outputs[0][0] and "test loss" not in outputs[1][0]

    found = []
    for name in ("one", "two"):
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            found.append([(r["step"], r["split"], r["loss"]) for r in csv.DictReader(file)])
    assert [row[:2] for row in found[0]] == [row[:2] for row in found[1]]
    one, two = (np.array([float(row[2]) for row in rows]) for rows in found)
    np.testing.assert_allclose(one, two, rtol=1e-3)
