"""Short whole runs through `train`, in this process."""

import csv
import errno
import json
import runpy
import shutil

import jax
import numpy as np
import pytest

from jaxcifar import run as run_module
from jaxcifar.config import default, durations
from jaxcifar.data import datasets
from jaxcifar.errors import InputError, StoppedError
from jaxcifar.evaluate import evaluate_run
from jaxcifar.program import create_program
from jaxcifar.reporting import csv_log
from jaxcifar.resilience import arrays, manifest
from jaxcifar.resilience.checkpoint import Checkpoints
from jaxcifar.resilience.files import write_json
from jaxcifar.resilience.lock import MovedError
from jaxcifar.resilience.manifest import read
from jaxcifar.train import train
from tests.helpers import REPOSITORY, assert_same_bits

pytestmark = pytest.mark.usefixtures("tiny")


def small_run(**fields):
    config = default()
    config.dataset.name = "digits"
    config.augment.crop_padding = 0
    config.augment.horizontal_flip = False
    config.model.name = "tiny"
    config.train.num_steps = 12
    config.train.batch_size = 32
    config.eval.every_steps = 2
    config.log.tensorboard = False
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return config


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def final(config, workdir, step):
    info = datasets.info(config.dataset)
    length = durations(config, info.train_size - config.dataset.validation_size)
    program = create_program(config, info, length)
    with Checkpoints(workdir / "checkpoints", create=False) as checkpoints:
        return checkpoints.restore(step, program.create_state)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that cannot improve enough, so that early stopping ends it after three evaluations."""
    config = small_run(
        dataset__validation_size=100,
        train__early_stopping_patience=2,
        train__early_stopping_min_delta=0.99,
    )
    workdir = tmp_path_factory.mktemp("stopped")
    return config, workdir, train(config, workdir)


def test_early_stopping_ends_a_run_and_saves_it(stopped):
    config, workdir, results = stopped
    assert list(results) == ["validation", "test"]
    evaluated = [int(r["step"]) for r in rows(workdir / "metrics.csv") if r["split"] == "test"]
    assert evaluated == [2, 4, 6]
    progress = final(config, workdir, 6).progress
    assert progress.stale_evaluations == 2 and progress.best_step in (2, 4, 6)


def test_a_stopped_run_stays_stopped(stopped, capsys):
    config, workdir, results = stopped
    before = (workdir / "metrics.csv").read_text()
    assert train(config, workdir) == results
    assert "stopped early before step 6" in capsys.readouterr().out.replace("\n", " ")
    assert (workdir / "metrics.csv").read_text() == before


def test_patience_keeps_counting_after_a_restart(stopped, tmp_path, monkeypatch):
    config, workdir, _ = stopped

    class Killed(Exception):
        pass

    class RunLogger(run_module.RunLogger):
        def log_evaluation(self, step, split, scalars):
            super().log_evaluation(step, split, scalars)
            if step == 6:
                raise Killed

    config = config.copy_and_resolve_references()
    config.checkpoint.every_steps = 5
    monkeypatch.setattr(run_module, "RunLogger", RunLogger)
    with pytest.raises(Killed):
        train(config, tmp_path)
    monkeypatch.undo()
    assert final(config, tmp_path, 5).progress.stale_evaluations == 1
    train(config, tmp_path)
    one, other = final(config, workdir, 6), final(config, tmp_path, 6)
    assert one.progress == other.progress
    for a, b in zip(jax.tree.leaves(one.state), jax.tree.leaves(other.state), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    clock = {"time": 0, "images_per_second": 0}
    assert [r | clock for r in rows(workdir / "metrics.csv")] == [
        r | clock for r in rows(tmp_path / "metrics.csv")
    ]


def test_the_loss_can_choose_the_best(tmp_path):
    config = small_run(dataset__validation_size=100, eval__best_metric="loss")
    train(config, tmp_path)
    losses = {
        int(row["step"]): float(row["loss"])
        for row in rows(tmp_path / "metrics.csv")
        if row["split"] == "validation"
    }
    progress = final(config, tmp_path, 12).progress
    assert progress.best_step == min(losses, key=losses.get)
    assert progress.best_score == pytest.approx(-min(losses.values()), rel=1e-5)


def test_average_levels_and_layers_are_written(tmp_path, capsys):
    config = small_run(
        train__num_steps=4,
        train__ema_decay=0.9,
        model__ternary="twn",
        log__layer_stats_every_steps=3,
    )
    results = train(config, tmp_path)
    assert list(results) == ["test", "test_ema", "weights"]
    assert sum(results["weights"].values()) == pytest.approx(1)
    assert 0.3 < results["weights"]["zero"] < 0.6
    weights = [row for row in rows(tmp_path / "metrics.csv") if row["split"] == "weights"]
    assert [row["step"] for row in weights] == ["2", "4"]
    assert float(weights[-1]["zero"]) == pytest.approx(results["weights"]["zero"], abs=1e-6)
    layers = rows(tmp_path / "layers.csv")
    assert {row["step"] for row in layers} == {"3"}
    assert {"all", "conv1", "norm", "conv2", "head"} == {row["layer"] for row in layers}

    config.eval.test_time_flip, config.eval.test_time_shift = True, 1
    averaged = evaluate_run(config, tmp_path)
    assert averaged["test"]["loss"] != results["test"]["loss"]
    assert "test_ema, 359 images, step 4" in capsys.readouterr().out


def test_a_folder_of_images_is_trained_on(tmp_path):
    from PIL import Image

    random = np.random.RandomState(0)
    for part, count in ("train", 16), ("val", 5):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.randint(0, 256, (40, 48, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.JPEG")
    (tmp_path / "data" / "train" / "cat" / "0.JPEG").write_bytes(b"not an image")
    config = small_run(
        dataset__name="image_folder",
        dataset__data_dir=str(tmp_path / "data"),
        dataset__image_size=16,
        dataset__validation_size=4,
        augment__crop_padding=4,
        train__num_steps=4,
        train__batch_size=8,
    )
    with pytest.raises(InputError, match="train/cat/0.JPEG"):
        train(config, tmp_path / "run")
    config.dataset.on_bad_image = "skip"
    results = train(config, tmp_path / "other")
    assert list(results) == ["validation", "test"]
    recorded = json.loads((tmp_path / "other" / "manifest.json").read_text())["data"]
    assert [value.split(":")[0] for value in recorded.values()] == ["contents"] * 3
    evaluate_run(config, tmp_path / "other")


RECIPES = [
    path.stem for path in sorted((REPOSITORY / "configs").glob("*.py")) if path.stem != "quickstart"
]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_two_steps_in_its_smoke_form(name, tmp_path):
    config = runpy.run_path(str(REPOSITORY / "configs" / f"{name}.py"))["get_config"]("smoke")
    config.train.num_steps = 2
    if config.schedule.name in ("step", "multistep"):  # drops after the end are refused
        config.schedule.name = "constant"
        config.schedule.milestones_steps, config.schedule.step_every_steps = (), 0
    config.schedule.gamma = 0.1
    config.schedule.warmup_steps = min(config.schedule.warmup_steps, 1)
    config.log.tensorboard = False
    results = train(config, tmp_path)
    for scalars in results.values():
        assert np.all(np.isfinite(list(scalars.values())))
    assert [row["step"] for row in rows(tmp_path / "metrics.csv") if row["split"] == "train"]


def test_parts_of_a_batch_that_devices_cannot_share_are_refused(tmp_path):
    config = small_run(train__accumulation_steps=32)
    message = "train.batch_size / train.accumulation_steps = 1: must be a multiple of .* 2"
    with pytest.raises(InputError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def one_step_a_call(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    config = small_run(checkpoint__keep_every_steps=5, checkpoint__every_steps=5)
    train(config, workdir)
    return config, workdir


def test_the_bits_do_not_depend_on_the_steps_per_call(one_step_a_call, tmp_path):
    config, workdir = one_step_a_call
    expected = final(config, workdir, 12).state
    many = small_run(
        train__steps_per_call=5, log__every_steps=3, checkpoint__every_steps=7, eval__every_steps=5
    )
    train(many, tmp_path)
    assert_same_bits(final(many, tmp_path, 12).state, expected)
    steps = [row["step"] for row in rows(tmp_path / "metrics.csv") if row["loss"]]
    assert steps == ["3", "5", "6", "9", "10", "12", "12"]


def test_a_run_that_resumes_with_other_steps_per_call_keeps_its_bits(one_step_a_call, tmp_path):
    config, workdir = one_step_a_call
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    many = small_run(train__steps_per_call=4)
    train(many, tmp_path / "run")
    assert [start["step"] for start in read(tmp_path / "run")["starts"]] == [0, 10]
    assert_same_bits(final(many, tmp_path / "run", 12).state, final(config, workdir, 12).state)


@pytest.fixture
def interrupted(one_step_a_call, tmp_path):
    """Returns the config and the workdir of a run that stopped at step 10 of 12."""
    config, workdir = one_step_a_call
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    run = read(tmp_path / "run")
    del run["end"]
    write_json(tmp_path / "run" / "manifest.json", run)
    return config, tmp_path / "run"


def test_other_convolutions_are_refused_or_accepted_and_recorded(interrupted, capsys):
    config, workdir = interrupted
    run = read(workdir)
    run["starts"][0]["arithmetic"] |= {"bits": "other", "convolutions": "c++ 1.2"}
    write_json(workdir / "manifest.json", run)
    with pytest.raises(InputError, match=r"(?s)saved c\+\+ 1.2.*--accept_config_change"):
        train(config, workdir)
    assert len(read(workdir)["starts"]) == 1
    train(config, workdir, accept_config_change=True)
    assert "warning: resuming with other convolutions" in capsys.readouterr().err
    (change,) = read(workdir)["config_changes"]
    assert (change["step"], change["field"]) == (10, "convolutions")
    assert change["old"].startswith("c++ 1.2")


def test_a_run_without_a_record_of_its_arithmetic_resumes_and_gets_one(interrupted, capsys):
    config, workdir = interrupted
    run = read(workdir)
    del run["starts"][0]["arithmetic"]
    write_json(workdir / "manifest.json", run)
    train(config, workdir)
    assert "warning" not in capsys.readouterr().err
    assert read(workdir)["starts"][1]["arithmetic"]["bits"]
    assert read(workdir)["config_changes"] == []


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_gpus_loop_trains_the_same(one_step_a_call, tmp_path):
    config, workdir = one_step_a_call
    many = small_run(train__steps_per_call=5)
    train(many, tmp_path)
    one, other = final(config, workdir, 12).state, final(many, tmp_path, 12).state
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.02)


def test_tf_data_feeds_the_same_network(tmp_path):
    fields = {"model__name": "resnet8", "train__num_steps": 40, "eval__every_steps": 40}
    results = train(small_run(dataset__pipeline="tf", **fields), tmp_path / "tf")
    other = train(small_run(dataset__pipeline="device", **fields), tmp_path / "device")
    assert abs(results["test"]["accuracy"] - other["test"]["accuracy"]) < 0.35
    assert min(results["test"]["accuracy"], other["test"]["accuracy"]) > 0.3


def test_training_images_of_a_single_class_are_warned_about_once(tmp_path, monkeypatch, capsys):
    config = small_run(train__num_steps=2)
    splits = datasets.load(config.dataset)
    only = splits["train"].labels == 3
    splits["train"] = splits["train"]._replace(
        images=splits["train"].images[only], labels=splits["train"].labels[only]
    )
    monkeypatch.setattr(datasets, "load", lambda _: splits)
    train(config, tmp_path, note="a note")
    note, warning, *others = capsys.readouterr().out.splitlines()
    assert note == "a note"
    assert warning.startswith("warning: all training images are of one class")
    assert not [line for line in others if "warning" in line]


def test_only_the_first_process_prints_notes(monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    run_module.print_once("a note")
    assert capsys.readouterr().out == ""


@pytest.fixture
def failing_writes(monkeypatch):
    """Makes the arrays of checkpoints after a step fail to be written; the step can be set."""

    class Failing:
        after = 0

        def write(self, path, state):
            if state.step > self.after:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(path, state)

    write, failing = arrays.write, Failing()
    monkeypatch.setattr(arrays, "write", failing.write)
    return failing


def test_a_run_whose_last_save_fails_is_not_said_to_be_done(tmp_path, capfd, failing_writes):
    failing_writes.after = 6
    with pytest.raises(StoppedError, match="^error: checkpoint 12 could not be written: No space"):
        train(small_run(checkpoint__every_steps=6), tmp_path)
    printed = capfd.readouterr()
    assert "test at step 12" in printed.out and printed.err == ""
    assert "done" not in printed.out and "checkpoints/" not in printed.out
    assert "end" not in manifest.read(tmp_path)


def test_a_save_that_fails_is_followed_by_no_other(tmp_path, capfd, failing_writes):
    failing_writes.after = 4
    with pytest.raises(StoppedError, match="checkpoint 5 could not be written"):
        train(small_run(checkpoint__every_steps=1), tmp_path)
    assert capfd.readouterr().err == ""
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["4", "run_id"]


def test_a_workdir_that_is_moved_stops_the_run_before_anything_is_written(tmp_path, monkeypatch):
    def log_evaluation(self, step, split, scalars):
        if step == 6:
            (tmp_path / "a").rename(tmp_path / "b")
        real(self, step, split, scalars)

    real = run_module.RunLogger.log_evaluation
    monkeypatch.setattr(run_module.RunLogger, "log_evaluation", log_evaluation)
    with pytest.raises(MovedError, match=f"a was moved to {tmp_path / 'b'} "):
        train(small_run(checkpoint__every_steps=2), tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    monkeypatch.undo()
    train(small_run(checkpoint__every_steps=2), tmp_path / "b")
    evaluated = [r["step"] for r in rows(tmp_path / "b" / "metrics.csv") if r["split"] == "test"]
    assert evaluated == ["2", "4", "6", "8", "10", "12"]


def test_rows_are_synced_before_a_checkpoint_is_written(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(csv_log, "sync", lambda path: seen.append(path.name))
    write = arrays.write
    monkeypatch.setattr(arrays, "write", lambda *args: (seen.append("arrays"), write(*args)))
    train(small_run(checkpoint__every_steps=6), tmp_path)
    assert seen == ["metrics.csv", "arrays"] * 2
