"""Mutation testing: applies one deliberate bug at a time and checks that the tests fail.

    python scripts/mutation_check.py            # all mutations, some ten minutes
    python scripts/mutation_check.py EMA order  # those with one of these words in their name

The bugs go into a copy of the code. The chosen tests first run on the code as it is. The exit code
is 1 if they fail there, or pass with any of the bugs.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Mutation(NamedTuple):
    """A bug: replaces `text`, which occurs once in `file`; `test` must fail with it."""

    name: str
    file: str
    text: str
    instead: str
    test: str


_RESUME = "resilience/test_nonfinite.py::test_skipped_steps_are_counted_across_a_restart"
_RESTORED = "devices.replicate(start.state), start.progress"
_POSITION = "orders.at(step)"


def _restored(state: str, progress: str = "") -> str:
    changed = f"dataclasses.replace(start.progress, {progress})" if progress else "start.progress"
    return f"devices.replicate(start.state.replace({state})), {changed}"


_ALL = [
    Mutation(
        "optimizer state not restored",
        "attempt.py",
        _RESTORED,
        _restored("opt_state=jax.tree.map(lambda x: 0 * x, start.state.opt_state)"),
        _RESUME,
    ),
    Mutation(
        "BatchNorm statistics reset",
        "attempt.py",
        _RESTORED,
        _restored("batch_stats=program.create_state().batch_stats"),
        _RESUME,
    ),
    Mutation(
        "EMA lost", "attempt.py", _RESTORED, _restored("ema=start.state.variables()"), _RESUME
    ),
    Mutation(
        "step and schedule restarted",
        "attempt.py",
        _RESTORED,
        _restored("step=0 * start.state.step"),
        _RESUME,
    ),
    Mutation(
        "best metric lost",
        "attempt.py",
        _RESTORED,
        _restored("", "best_step=0, best_score=None, reference_score=None"),
        _RESUME,
    ),
    Mutation(
        "skipped steps forgotten",
        "attempt.py",
        _RESTORED,
        _restored("", "skipped_steps=0"),
        _RESUME,
    ),
    Mutation(
        "parameters cast to bfloat16",
        "attempt.py",
        _RESTORED,
        _restored(
            "params=jax.tree.map(lambda x: x.astype('bfloat16').astype('float32'),"
            " start.state.params)"
        ),
        _RESUME,
    ),
    Mutation(
        "a leaf zeroed",
        "attempt.py",
        _RESTORED,
        _restored(
            "params={**start.state.params, 'head':"
            " jax.tree.map(lambda x: 0 * x, start.state.params['head'])}"
        ),
        _RESUME,
    ),
    Mutation(
        "order replayed at resume", "feed.py", _POSITION, "orders.at(step - first_step)", _RESUME
    ),
    Mutation(
        "position off by one at resume",
        "feed.py",
        _POSITION,
        "orders.at(step + (first_step > 0))",
        _RESUME,
    ),
    Mutation(
        "a skipped update's statistics kept",
        "steps.py",
        "new = jax.tree.map(partial(jnp.where, finite), new, state)",
        "new = state.replace(batch_stats=new.batch_stats)",
        "resilience/test_nonfinite.py::test_a_skipped_update_is_left_out_as_a_whole",
    ),
    Mutation(
        "statistics that are not finite unseen",
        "steps.py",
        "all_finite((loss, new))",
        "all_finite((loss, new.params))",
        "resilience/test_nonfinite.py::test_a_number_that_is_not_finite_is_counted_wherever_it_is",
    ),
    Mutation(
        "state saved unseen",
        "attempt.py",
        "nonfinite.check_state(self.step, state)",
        "pass",
        "resilience/test_nonfinite.py::test_a_state_that_is_not_finite_is_never_saved",
    ),
    Mutation(
        "rollback not recorded",
        "resilience/nonfinite.py",
        "update(workdir, rollbacks=",
        "dict(workdir=workdir, rollbacks=",
        "resilience/test_nonfinite.py::test_rollbacks_are_bounded_and_add_up",
    ),
    Mutation(
        "order changed",
        "data/device_pipeline.py",
        'stream(seed, "order")',
        'stream(seed, "crop")',
        "data/test_positions.py::test_the_device_pipeline_is_the_same_however_it_is_divided",
    ),
    Mutation(
        "mirrors tied to crops",
        "data/device_pipeline.py",
        "(flip_keys[:, 0])",
        "(crop_keys[:, 0])",
        "data/test_positions.py::test_the_device_pipeline_is_the_same_however_it_is_divided",
    ),
    Mutation(
        "tf.data's position off by one",
        "data/host_pipeline.py",
        "positions = step * batch_size",
        "positions = 1 + step * batch_size",
        "data/test_positions.py::test_tf_data_is_the_same_in_two_processes",
    ),
    Mutation(
        "erasing tied to cutout",
        "augment/pipeline.py",
        "keys(_ERASING)",
        "keys(_CUTOUT)",
        "augment/test_pipeline.py::test_every_augmentation_has_a_key_of_its_own",
    ),
    Mutation(
        "a killed process survived",
        "resilience/peers.py",
        'self._give_up(other, "was killed or has crashed")',
        "pass",
        "runs/test_processes.py::test_if_the_first_process_is_killed_the_other_reports_it",
    ),
    Mutation(
        "loss not masked",
        "metrics/classification.py",
        "jnp.sum(loss, where=mask)",
        "jnp.sum(loss)",
        "metrics/test_classification.py",
    ),
    Mutation(
        "statistics measured again on resume",
        "train.py",
        "normalization.with_recorded(workdir, datasets.info(config.dataset))",
        "datasets.info(config.dataset)",
        "runs/test_own_data.py::test_a_run_resumes_with_the_statistics_that_it_recorded",
    ),
    Mutation(
        "statistics of the test images too",
        "data/own_data.py",
        "fitting.statistics(train.images)",
        "fitting.statistics(np.concatenate([train.images, test.images]))",
        "data/test_own_data.py::test_statistics_are_of_the_images_that_are_trained_on",
    ),
    Mutation(
        "any config resumes",
        "resilience/manifest.py",
        "refused = never if accept else changes",
        "refused = never",
        "resilience/test_manifest.py::test_each_field_may_change_as_its_class_says",
    ),
    Mutation(
        "a lost manifest not looked for",
        "resilience/manifest.py",
        'run if "config" in run else {**_carried(workdir), **run}',
        "run",
        "resilience/test_manifest.py::test_a_lost_manifest_is_read_from_the_newest_checkpoint",
    ),
    Mutation(
        "lost checkpoints unnoticed",
        "resume.py",
        "if reason := _why_it_had_checkpoints(workdir, config):",
        'if reason := "":',
        "test_resume.py::test_a_run_whose_checkpoints_are_gone_does_not_start_again",
    ),
    Mutation(
        "lost rows unnoticed",
        "reporting/csv_log.py",
        "describe_missing(expected or {}, self.steps)",
        "describe_missing({}, self.steps)",
        "reporting/test_table_damage.py::test_steps_of_missing_rows_are_said",
    ),
    Mutation(
        "labels left out of the fingerprint",
        "data/split.py",
        "for array in (self.images, self.labels):",
        "for array in (self.images,):",
        "resilience/test_manifest.py::test_fingerprints_see_pixels_labels_order_and_shape",
    ),
    Mutation(
        "contents left out of the fingerprint of files",
        "data/file_hashes.py",
        "            digest.update(block)",
        "            pass",
        "resilience/test_data_check.py",
    ),
    Mutation(
        "another kind of fingerprint than the run's is compared",
        "resilience/data_check.py",
        "_fingerprints(splits, wanted | kinds)",
        "_fingerprints(splits, wanted)",
        "resilience/test_data_check.py",
    ),
]


def main() -> None:
    """Prints one line per mutation."""
    chosen = [m for m in _ALL if not sys.argv[1:] or any(word in m.name for word in sys.argv[1:])]
    baseline = _is_green(*sorted({mutation.test for mutation in chosen}))
    print(f"{'green' if baseline else 'RED':6}  the code as it is", flush=True)
    survived = 0
    for mutation in chosen if baseline else ():
        green = _is_green(mutation.test, mutation=mutation)
        survived += green
        print(f"{'GREEN' if green else 'red':6}  {mutation.name}  ({mutation.test})", flush=True)
    sys.exit(1 if survived or not baseline else 0)


def _is_green(*tests: str, mutation: Mutation | None = None) -> bool:
    """Whether tests pass in a copy of the tree, with or without a mutation."""
    with tempfile.TemporaryDirectory(prefix="jaxcifar_mutation_") as copy:
        for name in "jaxcifar", "tests", "configs", "pyproject.toml":
            source, target = ROOT / name, Path(copy) / name
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        if mutation:
            file = Path(copy) / "jaxcifar" / mutation.file
            code = file.read_text()
            if code.count(mutation.text) != 1:
                sys.exit(
                    f"error: {mutation.name}: {mutation.file} has {mutation.text!r} "
                    f"{code.count(mutation.text)} times; adjust scripts/mutation_check.py"
                )
            file.write_text(code.replace(mutation.text, mutation.instead))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", *(f"tests/{test}" for test in tests)],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": copy},
            stdout=subprocess.DEVNULL,
        )
    if done.returncode not in (0, 1):  # neither passed nor failed, as where a test is not found
        sys.exit(f"error: pytest ended with {done.returncode} for {' '.join(tests)}")
    return done.returncode == 0


if __name__ == "__main__":
    main()
