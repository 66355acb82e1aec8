import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.checkpoint import Checkpoints, Progress
from jaxcifar.errors import InputError


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


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


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
        with pytest.raises(InputError, match="'5': .* has latest, 3, 4, 6, 8"):
            checkpoints.find("5")


def test_the_best_survives_a_restart(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), Progress({}, best_step=1, best_score=0.9))
    with Checkpoints(tmp_path) as checkpoints:
        progress = checkpoints.restore_latest(create).progress
        checkpoints.save(2, state(2), progress)
        checkpoints.save(3, state(3), progress)
    assert steps(tmp_path) == [1, 3]


def test_a_run_without_validation_has_no_best(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), Progress())
        with pytest.raises(InputError, match="no best checkpoint.*validation_size"):
            checkpoints.find("best")


def test_saving_a_step_again_is_not_silent(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state(2), Progress())
        with pytest.raises(Exception, match="2"):
            checkpoints.save(2, state(3), Progress())


def damaged_empty(path):
    shutil.rmtree(path)
    path.mkdir()


def damaged_files(path):
    for file in (path / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


@pytest.mark.parametrize("damage", [damaged_empty, damaged_files])
def test_an_unreadable_checkpoint_is_set_aside_for_the_one_before(tmp_path, damage):
    with Checkpoints(tmp_path, keep_every=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), Progress())
    damage(tmp_path / "2")
    with Checkpoints(tmp_path, keep_every=1) as checkpoints:
        restored = checkpoints.restore_latest(create)
        assert restored.step == 1
        assert_same_bits(restored.state, state(1))
        assert (tmp_path / "2.unreadable").is_dir()
        checkpoints.save(2, state(5), Progress())
    with Checkpoints(tmp_path) as checkpoints:
        assert_same_bits(checkpoints.restore_latest(create).state, state(5))


def test_an_unfinished_save_is_ignored(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), Progress())
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(create).step == 1


def test_a_run_never_starts_again_silently(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), Progress())
    damaged_files(tmp_path / "1")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(InputError, match="none of its checkpoints can be read"):
            checkpoints.restore_latest(create)
    assert steps(tmp_path) == [1]


def test_checkpoints_of_another_model_are_left_alone(tmp_path):
    with Checkpoints(tmp_path, keep_every=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), Progress())

    def create_other():
        return {**create(), "params": {"kernel": jnp.zeros((5, 5)), "bias": jnp.zeros(5)}}

    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(InputError, match="none of its checkpoints can be read; step 2"):
            checkpoints.restore_latest(create_other)
    assert steps(tmp_path) == [1, 2]


def test_the_best_and_the_patience_follow_the_scores():
    progress = Progress()
    scores = [0.5, 0.505, 0.6, 0.609, float("nan"), 0.59, 0.7]
    seen = []
    for step, score in enumerate(scores, 1):
        progress = progress.evaluated(step, score, min_delta=0.01)
        seen.append((progress.best_step, progress.stale_evaluations))
    # 0.505 and 0.609 are the best so far, but no improvement by more than 0.01.
    assert seen == [(1, 0), (2, 1), (3, 0), (4, 1), (4, 2), (4, 3), (7, 0)]
    assert progress.best_score == progress.reference_score == 0.7
