"""A finished run that is resumed, changed and evaluated."""

import json
import shutil

import pytest

from tests.helpers import RUN, read_metrics


@pytest.fixture(scope="module")
def workdir(whole_run, tmp_path_factory):
    return shutil.copytree(whole_run, tmp_path_factory.mktemp("resume") / "run")


def test_a_finished_run_is_evaluated_and_left_as_it_is(run_main, workdir):
    before = read_metrics(workdir)
    code, out, err = run_main(*RUN, f"--workdir={workdir}")
    assert code == 0, err
    assert "from step 60" in out and "done: test" in out
    assert read_metrics(workdir) == before


def test_evaluation_finds_what_training_found(run_main, workdir):
    best = max(
        (r for r in read_metrics(workdir) if r["split"] == "validation"),
        key=lambda r: float(r["accuracy"]),
    )
    for name, step in (("latest", "60"), ("best", best["step"])):
        code, out, err = run_main(
            *RUN,
            f"--workdir={workdir}",
            "--mode=eval",
            f"--config.eval.checkpoint={name}",
            "--config.eval.batch_size=77",
        )
        assert code == 0, err
        results = json.loads((workdir / "evaluation.json").read_text())
        assert results["step"] == int(step)
        for split in ("validation", "test"):
            (row,) = [r for r in read_metrics(workdir) if (r["step"], r["split"]) == (step, split)]
            assert results[split]["accuracy"] == pytest.approx(float(row["accuracy"]), abs=1e-6)
            assert results[split]["loss"] == pytest.approx(float(row["loss"]), rel=1e-4)
            assert f"{split}, " in out


def test_another_config_is_refused_and_can_be_accepted(run_main, workdir):
    changed = [*RUN, f"--workdir={workdir}", "--config.train.num_steps=61"]
    code, out, err = run_main(*changed)
    assert code != 0 and "train.num_steps: saved 60, requested 61" in err
    assert "Traceback" not in err
    code, out, err = run_main(*changed, "--accept_config_change")
    assert code == 0, err
    assert read_metrics(workdir)[-1]["step"] == "61"
    starts = json.loads((workdir / "manifest.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 60, 60]


def test_evaluation_of_nothing_is_explained(run_main, tmp_path):
    code, _, err = run_main(*RUN, f"--workdir={tmp_path / 'nothing'}", "--mode=eval")
    assert code != 0 and "nothing/checkpoints: no checkpoint" in err and "Traceback" not in err
    assert not (tmp_path / "nothing").exists()


@pytest.mark.slow
def test_a_run_has_the_same_bits_on_any_number_of_threads(start_main, tmp_path):
    hashes = set()
    for threads in "1", "2", "16":
        workdir = tmp_path / threads
        # Batches this large have sums that XLA would divide by the number of threads.
        run = [*RUN, "--config.train.batch_size=512", f"--workdir={workdir}"]
        process = start_main(*run, NPROC=threads)
        _, err = process.communicate()
        assert process.returncode == 0, err
        hashes.add(json.loads((workdir / "manifest.json").read_text())["end"]["state_sha256"])
    assert len(hashes) == 1
