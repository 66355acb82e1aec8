"""Reproducing a finished run from its manifest."""

import json
import re
import shutil
import socket
from pathlib import Path

import pytest

from jaxcifar.errors import InputError
from jaxcifar.resilience.files import write_json
from jaxcifar.resilience.manifest import read, update
from jaxcifar.tools import reproduce as reproduce_module
from jaxcifar.tools.reproduce import default_out, reproduce
from jaxcifar.train import train
from tests.helpers import REPOSITORY
from tests.test_train import final, rows, small_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run whose config has tuples and floats, which the manifest must restore."""
    workdir = tmp_path_factory.mktemp("run")
    config = small_run(
        schedule__name="multistep",
        schedule__milestones_steps=(4, 8),
        train__num_steps=10,
        train__ema_decay=0.9,
        dataset__validation_size=100,
        model__name="resnet8",
        log__every_steps=3,
    )
    train(config, workdir)
    return config, workdir


def test_a_reproduction_is_bit_for_bit_identical(finished, capsys):
    config, workdir = finished
    assert reproduce(workdir, workdir / "reproduction")
    out = capsys.readouterr().out
    assert "bit-for-bit identical: all metrics and the state at step 10" in out
    assert "not identical" not in out and "environment differs" not in out
    end = read(workdir)["end"]
    assert end["step"] == 10 and end == read(workdir / "reproduction")["end"]
    last = {row["split"]: row for row in rows(workdir / "metrics.csv")}["test"]
    assert float(last["loss"]) == pytest.approx(end["metrics"]["test"]["loss"], rel=1e-6)
    one, other = (final(config, path, 10) for path in (workdir, workdir / "reproduction"))
    assert one.progress == other.progress
    with pytest.raises(InputError, match="reproduction already exists"):
        reproduce(workdir, workdir / "reproduction")


@pytest.mark.slow
def test_settings_made_before_jax_starts_are_repeated(start_main, tmp_path):
    """Determinism and `jax.distributed`, which only a separate process can show."""
    with socket.create_server(("localhost", 0)) as free:
        address = f"localhost:{free.getsockname()[1]}"
    alone = {
        "JAX_NUM_PROCESSES": "1",
        "JAX_PROCESS_ID": "0",
        "JAX_COORDINATOR_ADDRESS": address,
    }
    fields = {"train.deterministic": True, "train.distributed": True, "train.num_steps": 2}
    fields |= {"train.num_epochs": 0, "model.name": "resnet8", "log.tensorboard": False}
    fields |= {"schedule.name": "constant", "schedule.milestones_epochs": ()}
    settings = [f"--config.{field}={value}" for field, value in fields.items()]
    workdir = f"--workdir={tmp_path / 'run'}"
    for arguments in (
        ["--config=configs/quickstart.py", workdir, *settings],
        ["--mode=reproduce", workdir],
    ):
        process = start_main(*arguments, **alone)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert "bit-for-bit identical" in out and "environment differs" not in out
    (start,) = read(tmp_path / "run" / "reproduction")["starts"]
    assert "--xla_gpu_deterministic_ops=true" in start["environment"]["XLA_FLAGS"]


@pytest.mark.slow
def test_differences_on_other_devices_are_reported(finished, run_main, tmp_path):
    _, workdir = finished  # on two devices, each with its own batch statistics
    code, out, err = run_main("--mode=reproduce", f"--workdir={workdir}", f"--out={tmp_path / 'a'}")
    assert code == 1 and not err
    assert "environment differs: devices ['cpu', 'cpu'], now ['cpu']" in out
    assert f"not identical: {workdir} and {tmp_path / 'a'} differ, first in" in out
    assert re.search(
        r"\n  metrics.csv, step 2, validation: loss '[\d.]+' \(original\), "
        r"'[\d.]+' \(reproduction\)",
        out,
    )


def other_outcome(monkeypatch, finished, change):
    """Replaces the second training by a changed copy of the first."""

    def train(config, out):
        shutil.copytree(finished[1], out, dirs_exist_ok=True)
        change(out)

    monkeypatch.setattr(reproduce_module, "train", train)


def test_a_reproduction_that_was_killed_before_its_comparison_is_resumed(
    finished, tmp_path, capsys
):
    _, workdir = finished
    out = tmp_path / "out"
    shutil.copytree(workdir, out, ignore=shutil.ignore_patterns("reproduction"))
    update(out, reproduces=str(workdir.resolve()))
    assert reproduce(workdir, out) and "bit-for-bit identical" in capsys.readouterr().out
    with pytest.raises(InputError, match="out already exists"):
        reproduce(workdir, out)


@pytest.mark.parametrize("files", [(), ("manifest.json.part",)])
def test_a_reproduction_that_was_killed_before_its_start_is_resumed(
    finished, tmp_path, monkeypatch, files
):
    (tmp_path / "out").mkdir()
    for name in files:
        (tmp_path / "out" / name).touch()
    other_outcome(monkeypatch, finished, lambda out: None)
    assert reproduce(finished[1], tmp_path / "out")


def test_what_is_not_a_reproduction_of_the_run_is_left_alone(finished, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="already exists"):
        reproduce(finished[1], tmp_path)
    update(tmp_path, reproduces="/another/run")
    with pytest.raises(InputError, match="already exists"):
        reproduce(finished[1], tmp_path)


def test_a_different_state_with_equal_metrics_is_reported(finished, tmp_path, monkeypatch, capsys):
    def change(out):
        state_again = read(out)["end"] | {"state_sha256": "0123"}
        update(out, end=state_again)

    other_outcome(monkeypatch, finished, change)
    assert not reproduce(finished[1], tmp_path / "out")
    out = capsys.readouterr().out
    assert "  final state: " in out and "0123 (reproduction)" in out and "metrics.csv" not in out


def test_a_missing_row_is_reported(finished, tmp_path, monkeypatch, capsys):
    def change(out):
        lines = (out / "metrics.csv").read_text().splitlines(keepends=True)
        (out / "metrics.csv").write_text("".join(lines[:-1]))

    other_outcome(monkeypatch, finished, change)
    assert not reproduce(finished[1], tmp_path / "out")
    assert "metrics.csv, step 10, test_ema: row exists only in the original" in (
        capsys.readouterr().out
    )


def test_runs_that_cannot_be_reproduced_are_refused(finished, tmp_path):
    with pytest.raises(InputError, match="nothing: not a run: it has no manifest.json"):
        reproduce(tmp_path / "nothing", tmp_path / "out")
    run = json.loads((finished[1] / "manifest.json").read_text())

    def refuse(message, **entries):
        write_json(tmp_path / "manifest.json", {**run, **entries})
        with pytest.raises(InputError, match=message):
            reproduce(tmp_path, tmp_path / "out")

    change = {"field": "optimizer.learning_rate", "step": 1200, "old": 0.1, "new": 0.2}
    refuse(
        "was changed during the run: optimizer.learning_rate at step 1,200", config_changes=[change]
    )
    refuse("train.sed = 3 was written by a different version", config={"train": {"sed": 3}})
    refuse("started from weights in a.st", weights={"file": "a.st", "sha256": ""})
    refuse("the train split differs from", data={"train": "1234"})
    del run["end"]
    refuse("the run has not finished")


def kept_row(finished, directory, accuracies):
    """Copies what results/ keeps of a run, once per accuracy, each under another seed."""
    for seed, accuracy in enumerate(accuracies):
        (directory / str(seed)).mkdir(parents=True)
        shutil.copy(finished[1] / "metrics.csv", directory / str(seed))
        run = json.loads((finished[1] / "manifest.json").read_text())
        run["config"]["train"]["seed"] = run["seed"] = seed
        run["end"]["metrics"]["validation"]["accuracy"] = accuracy
        write_json(directory / str(seed) / "manifest.json", run)
    return directory


def test_a_row_is_reproduced_seed_by_seed(finished, tmp_path, capsys):
    row, out = tmp_path / "row", tmp_path / "out"
    for seed in (0, 1):
        config = finished[0].copy_and_resolve_references()
        config.train.seed = seed
        train(config, row / str(seed))
        shutil.rmtree(row / str(seed) / "checkpoints")
    capsys.readouterr()
    assert reproduce(row, out)
    assert capsys.readouterr().out.count("bit-for-bit identical") == 2
    assert reproduce(row, out)  # compares again what was repeated before
    assert read(out / "1")["end"] == read(row / "1")["end"] != read(row / "0")["end"]


@pytest.mark.parametrize("elsewhere", [True, False])
@pytest.mark.parametrize("repeated, close", [(0.929, False), (0.935, True), (0.95, False)])
def test_a_row_elsewhere_is_compared_by_its_deviation(
    finished, tmp_path, monkeypatch, capsys, repeated, close, elsewhere
):
    row = kept_row(finished, tmp_path / "row", [0.938, 0.940, 0.942])
    # 97.5 % quantile of Student's t with 2 degrees of freedom: 4.3027, from a printed table.
    width = 4.3027 * 0.002 * (1 / 3 + 1) ** 0.5
    assert close == (abs(repeated - 0.94) <= width)

    def train(config, out):
        shutil.copy(row / "1" / "metrics.csv", out)
        end = json.loads((row / "1" / "manifest.json").read_text())["end"]
        end["metrics"]["validation"]["accuracy"] = repeated
        start = {"versions": {}, "hardware": {}, "commit": "", "environment": {}}
        update(out, end=end | {"state_sha256": "0123"}, starts=[start])

    monkeypatch.setattr(reproduce_module, "train", train)
    changes = ["versions jax 0, now 1"] if elsewhere else []
    monkeypatch.setattr(reproduce_module, "_software", lambda run: iter(changes))
    assert reproduce(row / "1", tmp_path / "out") == (close and elsewhere)
    out = capsys.readouterr().out
    assert ("environment differs: versions jax 0, now 1" in out) == elsewhere
    assert "final state: " in out
    assert f"94.00% (original, mean of 3), {repeated:.2%} (reproduction, mean of 1)" in out
    expected = "within" if close else "not within"
    assert f"\n{expected} the deviation of the original's seeds: " in out
    assert f"up to {100 * width:.2f} percentage points" in out


def test_a_row_of_one_seed_has_no_deviation(finished, tmp_path, monkeypatch, capsys):
    row = kept_row(finished, tmp_path / "row", [0.94])

    def change(out):
        update(out, end=read(out)["end"] | {"state_sha256": "0123"})

    other_outcome(monkeypatch, finished, change)
    assert not reproduce(row, tmp_path / "out")
    assert "the original has one seed, hence no deviation" in capsys.readouterr().out


def test_reproductions_are_kept_out_of_the_results(finished, monkeypatch):
    assert default_out(finished[1]) == finished[1] / "reproduction"
    monkeypatch.chdir(REPOSITORY)
    for path in "results/speedrun94", "results/speedrun94/":
        assert default_out(Path(path)) == Path("runs/reproduction_results_speedrun94")
