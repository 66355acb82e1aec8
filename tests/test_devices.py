"""The local devices: placement, batches and compilation."""

import csv
import shutil

import jax
import numpy as np
import pytest

from jaxcifar import devices
from jaxcifar.errors import InputError


def test_arrays_go_to_every_device_and_come_back_as_copies():
    tree = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3), "step": np.int32(3)}
    on_devices = devices.replicate(tree)
    assert on_devices["w"].shape == (jax.device_count(), 2, 3)
    back = devices.fetch(on_devices)
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    assert back["w"].flags.owndata and back["w"].flags.writeable


def test_batches_are_split_in_order_over_the_devices():
    batches = [{"label": np.arange(8) + k} for k in range(5)]
    seen = list(devices.prefetch(batches))
    assert len(seen) == 5
    for batch, array in zip(batches, seen, strict=True):
        assert array["label"].shape == (jax.device_count(), 8 // jax.device_count())
        np.testing.assert_array_equal(np.ravel(array["label"]), batch["label"])


def test_batch_sizes_must_suit_the_devices():
    devices.check_batch_size("train.batch_size", 4)
    with pytest.raises(InputError, match="train.batch_size = 5: .* multiple .* devices, 2"):
        devices.check_batch_size("train.batch_size", 5)
    assert [devices.round_up_batch_size(size) for size in (1, 2, 3)] == [2, 2, 4]


def test_nothing_is_compiled_twice(caplog):
    step = devices.map_train_step(lambda state, batch: (state + 1, {"n": batch["label"].sum()}))
    state = devices.replicate(np.float32(0))
    with jax.log_compiles():
        for batch in devices.prefetch([{"label": np.arange(4)}] * 3):
            state, _ = step(state, batch)
    compiled = [
        r.getMessage() for r in caplog.records if "Finished XLA compilation" in r.getMessage()
    ]
    assert len(compiled) == 1, compiled


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends run calls ahead")
def test_a_cpu_call_returns_only_when_it_has_finished():
    def step(state, batch):
        return jax.lax.fori_loop(0, 20, lambda _, x: jax.numpy.sin(x @ x), state), batch

    step = devices.map_train_step(step)
    state = devices.replicate(np.ones((500, 500), np.float32))
    batch = devices.replicate(np.float32(0))
    for _ in range(2):
        state, batch = step(state, batch)
        assert state.is_ready()


@pytest.mark.slow
def test_four_devices_give_the_result_of_one_and_take_over_from_it(start_main, tmp_path):
    """Up to rounding, with batch statistics over all devices: sums are added in another order.

    Everything that ran on the same number of devices is bit-for-bit identical.
    """

    def run(workdir, devices):
        process = start_main(
            "--config=configs/quickstart.py",
            "--config.model.name=resnet8",
            "--config.model.sync_batch_norm=True",
            "--config.optimizer.learning_rate=0.01",  # rounding errors grow slowly
            "--config.schedule.name=constant",
            "--config.schedule.milestones_epochs=()",
            "--config.train.num_epochs=0",
            "--config.train.num_steps=12",
            "--config.log.every_steps=1",
            "--config.log.tensorboard=False",
            "--config.checkpoint.keep_every_steps=4",
            f"--workdir={workdir}",
            XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}",
        )
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err
        assert f"{devices} x cpu" in out
        with (workdir / "metrics.csv").open(newline="") as file:
            return [(r["step"], r["split"], r["loss"]) for r in csv.DictReader(file)]

    def back_to(workdir, step):
        for path in (workdir / "checkpoints").iterdir():
            if path.name.isdecimal() and int(path.name) > step:
                shutil.rmtree(path)

    one, four = run(tmp_path / "one", 1), run(tmp_path / "four", 4)
    shutil.copytree(tmp_path / "four", tmp_path / "again")
    back_to(tmp_path / "again", 4)
    assert run(tmp_path / "again", 4) == four

    there_and_back = tmp_path / "there_and_back"
    shutil.copytree(tmp_path / "one", there_and_back)
    back_to(there_and_back, 4)
    passed = run(there_and_back, 4)
    assert passed[:4] == one[:4] and passed[4:] != one[4:]
    back_to(there_and_back, 8)
    back = run(there_and_back, 1)
    assert back[:8] == passed[:8]

    for rows in four, passed, back:
        assert [row[:2] for row in rows] == [row[:2] for row in one]
        losses = [[float(loss) for _, _, loss in rows] for rows in (rows, one)]
        np.testing.assert_allclose(*losses, rtol=1e-4)
