"""Checkpoints in a directory: saving, restoring, retention, names and mismatching states."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.errors import InputError, StoppedError
from jaxcifar.resilience import arrays, integrity
from jaxcifar.resilience.checkpoint import Checkpoints
from jaxcifar.resilience.lock import MovedError, WriterLock
from jaxcifar.resilience.progress import Progress
from jaxcifar.resilience.store import CheckpointStore
from tests.helpers import assert_same_bits


def state(value):
    random = np.random.RandomState(value)
    return {
        "step": np.int32(value),
        "params": {"kernel": random.normal(size=(3, 4)).astype(np.float32)},
        "half": random.normal(size=5).astype(jnp.bfloat16),
        "opt_state": (np.array([np.nan, -0.0, np.inf, 1e-45], np.float32), ()),
    }


def create():
    return jax.tree.map(jnp.asarray, state(0))


def steps(directory):
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    progress = Progress({"loss": 0.1 + 0.2, "count": 3.0}, best_step=2, best_score=1 / 3)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state(7), progress)
    with Checkpoints(tmp_path) as checkpoints:
        step, restored, progress_again = checkpoints.restore_latest(create)
    assert step == 7 and progress_again == progress
    assert_same_bits(restored, state(7))


def test_what_a_checkpoint_carries_is_found_again(tmp_path):
    carried = {"run_manifest": {"seed": 1}, "rows": {"metrics.csv": {"train": [[1, 7, 3]]}}}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.saved_step() is None
        checkpoints.save(7, state(7), Progress(), carried)
        assert checkpoints.carried(7) == carried
        assert checkpoints.carried(8) == {} and checkpoints.saved_step() == 7
        checkpoints.save(8, state(8), Progress())
        checkpoints.wait()
        assert checkpoints.carried(8) == {"run_manifest": {}, "rows": {}}


def test_without_checkpoints_a_run_starts_at_zero(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        step, restored, progress = checkpoints.restore_latest(create)
    assert (step, progress) == (0, Progress())
    assert_same_bits(restored, create())


def test_latest_best_and_every_nth_are_kept(tmp_path):
    best = {1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 4, 8: 4}
    with Checkpoints(tmp_path, keep_every=3) as checkpoints:
        for step in range(1, 9):
            checkpoints.save(step, state(step), Progress({}, best_step=best[step]))
    assert steps(tmp_path) == [3, 4, 6, 8]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.find("latest") == 8
        assert checkpoints.find("best") == 4
        assert checkpoints.find("6") == 6
        with pytest.raises(InputError, match="eval.checkpoint = 5: .* latest, 3, 4, 6, 8"):
            checkpoints.find("5")


def test_the_best_survives_a_restart(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), Progress({}, best_step=1, best_score=0.9))
    with Checkpoints(tmp_path) as checkpoints:
        progress = checkpoints.restore_latest(create).progress
        checkpoints.save(2, state(2), progress)
        checkpoints.save(3, state(3), progress)
    assert steps(tmp_path) == [1, 3]


def test_the_best_stays_until_a_better_one_is_written(tmp_path, monkeypatch):
    def full(part, content):
        if content["step"] == 2:
            raise OSError(28, "No space left on device")
        return seal(part, content)

    seal = integrity.seal
    monkeypatch.setattr(integrity, "seal", full)
    with Checkpoints(tmp_path) as checkpoints:
        for step, best in (1, 1), (2, 2), (3, 2), (4, 2):
            checkpoints.save(step, state(step), Progress({}, best_step=best))
            checkpoints.wait()
            assert bool(checkpoints.failure()) == (step == 2)
            assert checkpoints.find("best") == 1
        assert steps(tmp_path) == [1, 4]
        checkpoints.save(5, state(5), Progress({}, best_step=5))
        assert checkpoints.find("best") == 5
    assert steps(tmp_path) == [5]


@pytest.mark.parametrize("name", ["a[b]", "b\\c"])
def test_a_save_that_orbax_could_not_read_back_counts_as_failed(tmp_path, name):
    with Checkpoints(tmp_path / name) as checkpoints:
        checkpoints.save(1, state(1), Progress())
        checkpoints.wait()
        assert "Orbax wrote an incomplete state" in str(checkpoints.failure())
        assert checkpoints.steps() == []


def test_a_run_without_validation_has_no_best(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), Progress())
        with pytest.raises(InputError, match="no best checkpoint.*validation_size"):
            checkpoints.find("best")
        progress = Progress().evaluated(2, float("nan"), 0.0)
        checkpoints.save(2, state(2), progress.evaluated(2, -float("inf"), 0.0))
        with pytest.raises(InputError, match="was NaN or infinite in each of 2 evaluations"):
            checkpoints.find("best")


def test_saving_a_step_again_is_not_silent(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state(2), Progress())
        with pytest.raises(Exception, match="2"):
            checkpoints.save(2, state(3), Progress())


def test_what_a_kill_leaves_is_removed_by_the_next_writer_alone(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), Progress())
    shutil.copytree(tmp_path / "1", tmp_path / "2.part")
    (tmp_path / "run_id.part").touch()
    with Checkpoints(tmp_path, create=False) as reader:
        assert reader.restore(reader.find("latest"), create).step == 1
    assert (tmp_path / "2.part").exists()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(create).step == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "run_id"]


def changed(**fields):
    """Returns a function that creates a state with some arrays replaced, or left out if None."""

    def create_changed():
        arrays = {**create(), **fields}
        return {name: value for name, value in arrays.items() if value is not None}

    return create_changed


@pytest.mark.parametrize(
    "create_other, difference",
    [
        (changed(step=None), r"step: saved int32\[\], expected absent"),
        (changed(ema=jnp.zeros(2)), r"ema: saved absent, expected float32\[2\]"),
        (changed(half=jnp.zeros(5)), r"half: saved bfloat16\[5\], expected float32\[5\]"),
        (
            changed(params={"kernel": jnp.zeros((4, 3))}),
            r"params/kernel: saved float32\[3, 4\], expected float32\[4, 3\]",
        ),
        (
            changed(opt_state=(jnp.zeros(4), jnp.zeros(()))),
            r"opt_state/1: saved absent, expected float32\[\]",
        ),
    ],
)
def test_arrays_that_are_missing_extra_recast_or_reshaped_are_named(
    tmp_path, create_other, difference
):
    with Checkpoints(tmp_path, keep_every=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), Progress())
        with pytest.raises(InputError, match=f"/2 was saved with a different .*\n  {difference}$"):
            checkpoints.restore_latest(create_other)
    assert steps(tmp_path) == [1, 2]


def test_what_is_to_come_before_a_save_comes_first_and_fails_it(tmp_path):
    def before():
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        if len(seen) == 2:
            raise StoppedError("a.csv: not on disk: Input/output error")

    seen = []
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), Progress(), before=before)
            checkpoints.wait()
        message = "checkpoint 2 could not be written: a.csv: not on disk: Input/output error"
        assert str(checkpoints.failure()) == message
    assert seen == [[], ["1", "run_id"]] and steps(tmp_path) == [1]


def test_a_checkpoint_that_cannot_be_removed_is_named_once_and_no_save_is_lost(
    tmp_path, monkeypatch
):
    def remove(store, step):
        raise PermissionError(13, "Permission denied")

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(CheckpointStore, "remove", remove)
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), Progress())
        checkpoints.wait()
        failures = [checkpoints.failure() for _ in range(3)]
        monkeypatch.undo()
        checkpoints.save(4, state(4), Progress())
    assert [failure and (str(failure), failure.lost) for failure in failures] == [
        ("the older checkpoint 1 could not be removed: Permission denied", False),
        ("the older checkpoint 2 could not be removed: Permission denied", False),
        None,
    ]
    assert steps(tmp_path) == [4]


@pytest.mark.parametrize("moment", ["before", "while", "after"])
@pytest.mark.parametrize("removed", [False, True])
def test_a_save_never_makes_a_workdir_anew(tmp_path, monkeypatch, moment, removed):
    workdir, place = tmp_path / "runs" / "a", tmp_path / "b"

    def write(path, tree):
        if moment != "after":
            leave()
        if moment == "while":  # as Orbax and TensorStore do
            path.mkdir(parents=True)
        write_arrays(path, tree)
        if moment == "after":
            leave()

    def leave():
        shutil.rmtree(workdir) if removed else workdir.rename(place)

    write_arrays = arrays.write
    with WriterLock(workdir) as lock:
        lock.acquire()
        with Checkpoints(workdir / "checkpoints", check=lock.check) as checkpoints:
            checkpoints.save(1, state(1), Progress())
            checkpoints.wait()
            monkeypatch.setattr(arrays, "write", write)
            checkpoints.save(2, state(2), Progress())
            checkpoints.wait()
            assert isinstance(checkpoints.failure().__cause__, MovedError)
    assert list((tmp_path / "runs").iterdir()) == []
    if not removed:
        with Checkpoints(place / "checkpoints") as checkpoints:
            assert checkpoints.restore_latest(create).step == 1
        assert steps(place / "checkpoints") == [1]
