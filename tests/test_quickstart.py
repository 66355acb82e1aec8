import csv


def test_the_quickstart_recipe_learns_the_digits(run_main, tmp_path):
    code, out, err = run_main("--config=configs/quickstart.py", f"--workdir={tmp_path}")
    assert code == 0, err
    first, *_ = out.splitlines()
    for word in ("cpu", "float32", "digits", "172,218 parameters", "449 steps"):
        assert word in first
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["split"] == "test" and float(rows[-1]["accuracy"]) >= 0.97
    assert (tmp_path / "checkpoints" / "449").is_dir()
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert "172,218" in (tmp_path / "parameters.txt").read_text()
    assert f"{tmp_path} has checkpoints/" in out and "tensorboard --logdir" in out
