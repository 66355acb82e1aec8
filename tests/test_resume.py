"""What a run checks and says when it is started in the workdir of an earlier start."""

import json
import os
import shutil

import pytest

from jaxcifar.errors import InputError
from jaxcifar.resilience import integrity, manifest
from jaxcifar.resilience.checkpoint import Checkpoints
from jaxcifar.resume import check_workdir
from jaxcifar.train import train
from tests.helpers import read_metrics, saved_steps
from tests.test_train import small_run

pytestmark = pytest.mark.usefixtures("tiny")


def run_config(**fields):
    fields = {
        "schedule__name": "cosine",
        "checkpoint__every_steps": 4,
        "log__every_steps": 3,
    } | fields
    return small_run(**fields)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of a finished run of 12 steps; a test that writes to it must copy it first."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train(run_config(), workdir)
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def contents(directory):
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path): path.read_bytes() for path in files}


def drop_carried(workdir):
    """Makes the checkpoints those of an earlier version, which carried nothing."""
    for step in saved_steps(workdir):
        path = workdir / "checkpoints" / str(step)
        content = integrity.read(path)
        (path / "manifest.json").unlink()
        new = ("run_manifest", "rows", "files")
        integrity.seal(path, {name: v for name, v in content.items() if name not in new})
    run = json.loads((workdir / "manifest.json").read_text())
    run.pop("first_checkpoint")
    (workdir / "manifest.json").write_text(json.dumps(run))


def refusal(workdir, config):
    """Returns why a start is refused, after checking that it changes nothing."""
    before = contents(workdir)
    with pytest.raises(InputError) as caught:
        train(config, workdir, accept_config_change=True)
    after = contents(workdir)
    lock = str(workdir / "lock")  # names the last writer
    assert {**before, lock: b""} == {**after, lock: b""}
    return str(caught.value)


def test_a_run_records_its_first_checkpoint_and_its_rows(finished):
    assert manifest.read(finished)["first_checkpoint"] in (4, 8, 12)
    with Checkpoints(finished / "checkpoints", create=False) as checkpoints:
        carried = checkpoints.carried(12)
    assert carried["rows"] == {"metrics.csv": {"train": [[3, 12, 3]], "test": [[2, 12, 2]]}}
    assert carried["run_manifest"]["config"] == manifest.read(finished)["config"]
    assert carried["run_manifest"]["data"] == manifest.read(finished)["data"]


def test_a_lost_manifest_and_lost_rows_are_said(workdir, capsys):
    before = manifest.read(workdir)
    (workdir / "manifest.json").unlink()
    metrics = workdir / "metrics.csv"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if not line.startswith("6,")))
    assert "train.seed: saved 0, requested 1" in refusal(workdir, run_config(train__seed=1))
    train(run_config(), workdir)
    out = capsys.readouterr().out.replace("\n", " ")
    assert f"warning: {workdir}/manifest.json was missing; it is made again from checkpoint" in out
    assert "rows are missing: test, train at step 6" in out
    again = manifest.read(workdir)
    assert all(again[name] == before[name] for name in ("config", "data", "end"))
    train(run_config(), workdir)
    assert "manifest.json was missing" not in capsys.readouterr().out


def test_a_run_of_an_earlier_version_resumes_without_a_warning(workdir, capsys):
    drop_carried(workdir)
    (workdir / "metrics.csv").unlink()  # which rows it had is unknown
    train(run_config(), workdir)
    assert "warning" not in capsys.readouterr().out
    (workdir / "manifest.json").unlink()
    train(run_config(), workdir)
    out = capsys.readouterr().out.replace("\n", " ")
    assert "manifest.json was missing, and checkpoint 12 does not have the config" in out


def empty_directory(workdir):
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "checkpoints").mkdir()


def killed_at_its_first_start(workdir):
    """As a run of an earlier version, of which only the rows show that it has saved."""
    drop_carried(workdir)
    run = json.loads((workdir / "manifest.json").read_text())
    run.pop("end")
    (workdir / "manifest.json").write_text(json.dumps(run))
    shutil.rmtree(workdir / "checkpoints")


LOST = {
    "the directory": (lambda run: shutil.rmtree(run / "checkpoints"), "one at step 12 or later"),
    "its contents": (empty_directory, "one at step 12 or later"),
    "the manifest too": (
        lambda run: (shutil.rmtree(run / "checkpoints"), (run / "manifest.json").unlink()),
        "metrics.csv has rows up to step 12, and manifest.json is missing too",
    ),
    "of an earlier version": (killed_at_its_first_start, "and the run saved one every 4"),
    "that held imported weights": (
        lambda run: (
            shutil.rmtree(run / "checkpoints"),
            (run / "metrics.csv").unlink(),
            (run / "manifest.json").write_text('{"weights": {"file": "w.st"}}'),
        ),
        "the run started from weights in w.st",
    ),
}


@pytest.mark.parametrize("name", LOST)
def test_a_run_whose_checkpoints_are_gone_does_not_start_again(workdir, name):
    lose, reason = LOST[name]
    lose(workdir)
    message = refusal(workdir, run_config())
    assert message.startswith(f"{workdir}/checkpoints: no checkpoint, but ") and reason in message
    assert f"choose another --workdir or remove {workdir}." in message


def test_a_run_that_was_killed_before_its_first_checkpoint_may_start_again(tmp_path):
    config = run_config()
    manifest.record_start(tmp_path, config, 0, {})
    (tmp_path / "checkpoints").mkdir()
    header = "step,epoch,split,loss\n"
    (tmp_path / "metrics.csv").write_text(header + "3,0.1,train,1.0\n4,0.1,test,1.0\n")
    check_workdir(tmp_path, config)
    (tmp_path / "metrics.csv").write_text(header + "9,0.3,train,1.0\n")
    with pytest.raises(InputError, match="rows up to step 9"):
        check_workdir(tmp_path, config)
    # Failed saves do not stop such a run.
    config.checkpoint.on_error = "continue"
    manifest.record_start(tmp_path, config, 0, {})
    check_workdir(tmp_path, config)


@pytest.mark.parametrize("data", [b"\xff\xfe\0\1\n", b"step\n" + b"1" * 200_000 + b"\n"])
def test_a_table_that_cannot_be_read_is_named(tmp_path, data):
    (tmp_path / "metrics.csv").write_bytes(data)
    with pytest.raises(InputError, match="metrics.csv: not a table written by jaxcifar"):
        check_workdir(tmp_path, run_config())


@pytest.mark.parametrize("name", ["metrics.csv", "layers.csv", "parameters.txt", "lock"])
def test_a_pipe_in_the_place_of_a_file_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} is a pipe"):
        check_workdir(tmp_path, run_config())


@pytest.mark.parametrize(
    "length, said",
    [
        ({"train__num_steps": 11}, "train.num_steps = 11 ends at step 11"),
        ({"train__num_steps": 0, "train__num_epochs": 0.25}, "train.num_epochs = 0.25 ends at"),
    ],
)
def test_a_run_that_has_passed_the_length_asked_for_is_refused(workdir, length, said):
    message = refusal(workdir, run_config(**length))
    assert "has already passed the length asked for: it is at step 12, and " + said in message
    assert "--mode eval" in message and "another --workdir" in message


def test_a_learning_rate_that_jumps_is_said(workdir, capsys):
    longer = run_config(train__num_steps=13)
    train(longer, workdir, accept_config_change=True)
    out = capsys.readouterr().out.replace("\n", " ")
    assert "learning rate at step 12: 0.001453 instead of 0 (train.num_steps from 12 to 13)" in out
    assert [row["step"] for row in read_metrics(workdir)][-1] == "13"
    # Nothing is said where the rate stays, or nothing was changed.
    constant = run_config(train__num_steps=13, train__label_smoothing=0.1)
    train(constant, workdir, accept_config_change=True)
    train(constant, workdir)
    assert "learning rate at step" not in capsys.readouterr().out
