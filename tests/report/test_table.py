"""The table that `jaxcifar report` prints."""

import json

import pytest

from jaxcifar.errors import InputError
from jaxcifar.report import runs
from jaxcifar.report.table import table


def find(root):
    """The runs in a directory, all of which can be read."""
    found, problems = runs.find([root])
    assert not problems
    return found


def write_run(workdir, fields, rows, *, finished=True, **entries):
    """Writes the files of a run; rows are (step, split, accuracy, images/s)."""
    workdir.mkdir(parents=True)
    config = {"train": {"seed": 0}, "log": {"every_steps": 100}}
    for path, value in fields.items():
        section, field = path.split(".")
        config.setdefault(section, {})[field] = value
    manifest = {"config": config, **({"end": {}} if finished else {}), **entries}
    (workdir / "manifest.json").write_text(json.dumps(manifest))
    lines = ["step,split,accuracy,images_per_second", *(",".join(map(str, row)) for row in rows)]
    (workdir / "metrics.csv").write_text("\n".join(lines) + "\n")
    (workdir / "parameters.txt").write_text("| a | (3,) |\nTotal: 269,722 -- 1,078,888 bytes\n")


def cells(text):
    """The rows of a Markdown table, each as a dictionary."""
    header, _, *rows = [
        [cell.strip() for cell in line[1:-1].split("|")]
        for line in text.split("\n")
        if line.startswith("|")
    ]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_means_and_deviations_over_seeds_are_those_computed_by_hand(tmp_path):
    for seed, accuracy in enumerate((0.90, 0.92, 0.94)):
        rows = [(10, "train", 0.5, 100 + seed), (10, "test", 0.99, ""), (20, "test", accuracy, "")]
        write_run(tmp_path / "base" / f"seed_{seed}", {"train.seed": seed}, rows)
    (row,) = cells(table(find(tmp_path)))
    assert row == {
        "run": "base",
        "differs in": "",
        "runs": "3",
        "parameters": "269,722",
        "step": "20",
        "test accuracy": "92.00% ± 2.00%",  # sqrt((4 + 0 + 4) / 2), of the last step
        "train accuracy": "50.00%",
        "images/s": "101 ± 1",
    }


def test_the_best_step_is_chosen_on_validation_images_only(tmp_path):
    rows = [(1, "validation", 0.3, ""), (2, "validation", 0.6, ""), (3, "validation", 0.5, "")]
    rows += [(1, "test", 0.9, ""), (3, "test", 0.4, "")]
    write_run(tmp_path / "run", {}, rows)
    (row,) = cells(table(find(tmp_path / "run")))
    assert row["run"] == "run"
    assert (row["validation accuracy"], row["best validation accuracy"]) == ("50.00%", "60.00%")
    assert row["test accuracy"] == "40.00%" and "best test accuracy" not in row


def test_a_row_lists_the_fields_in_which_it_differs_from_most(tmp_path):
    row = [(1, "test", 0.5, "")]
    common = {"optimizer.learning_rate": 0.1, "model.name": "resnet20", "train.batch_size": 64}
    write_run(tmp_path / "a", common, row)
    write_run(tmp_path / "b", {**common, "log.every_steps": 7}, row)  # changes no result
    write_run(tmp_path / "c", {**common, "model.name": "resnet56"}, row)
    write_run(tmp_path / "d", {**common, "optimizer.learning_rate": 0.5}, row, finished=False)
    write_run(tmp_path / "again", common, row, reproduces="a")
    (tmp_path / "not_started").mkdir()
    found = {row["run"]: row["differs in"] for row in cells(table(find(tmp_path)))}
    assert found == {
        "a": "",
        "c": "model.name=resnet56",
        "d (unfinished)": "optimizer.learning_rate=0.5",
    }


def test_an_incomplete_last_line_is_ignored(tmp_path):
    write_run(tmp_path / "run", {}, [(1, "test", 0.5, "")])
    with (tmp_path / "run" / "metrics.csv").open("a") as file:
        file.write("2,test,0.")
    (row,) = cells(table(find(tmp_path)))
    assert (row["step"], row["test accuracy"]) == ("1", "50.00%")


def test_directories_without_valid_runs_are_named(tmp_path):
    with pytest.raises(InputError, match="no runs in it"):
        find(tmp_path / "nowhere")
    write_run(tmp_path / "run", {}, [(1, "test", "good", "")])
    message = "run: manifest.json or metrics.csv was not written by a run"
    with pytest.raises(InputError, match=message):
        find(tmp_path)
    write_run(tmp_path / "other", {}, [(1, "test", 0.5, "")])
    found, problems = runs.find([tmp_path])
    assert [run.name for run in found] == ["other"]
    assert len(problems) == 1 and message in problems[0]


def test_the_command_lists_each_run_once(run_command, tmp_path):
    for seed in 0, 1:
        write_run(tmp_path / f"run_seed{seed}", {"train.seed": seed}, [(1, "test", 0.5, "")])
    code, out, err, _ = run_command("jaxcifar", "report", tmp_path, f"{tmp_path}/run_seed0")
    assert (code, err) == (0, "")
    (row,) = cells(out.strip())
    assert (row["run"].endswith("/run"), row["runs"]) == (True, "2")
    code, _, err, _ = run_command("jaxcifar", "report")
    assert code == 1 and err.startswith("error: name directories of runs")


def test_a_damaged_checkpoint_does_not_keep_a_run_out(tmp_path):
    write_run(tmp_path / "run", {}, [(1, "test", 0.5, "")])
    checkpoint = tmp_path / "run" / "checkpoints" / "1.damaged-hash-manifest.json"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("[" * 100_000)
    (row,) = cells(table(find(tmp_path)))
    assert row["test accuracy"] == "50.00%"


def test_configs_are_compared_with_the_baseline(tmp_path):
    for name, lr, accuracies in (
        ("other", 0.2, {0: 0.93, 1: 0.95, 2: 0.94}),
        ("baseline", 0.1, {0: 0.90, 1: 0.94, 2: 0.92}),
        ("single", 0.4, {0: 0.5}),
    ):
        for seed, accuracy in accuracies.items():
            fields = {"train.seed": seed, "optimizer.learning_rate": lr}
            write_run(tmp_path / name / f"seed_{seed}", fields, [(1, "test", accuracy, "")])
    text = table(find(tmp_path))
    rows = {row["run"]: row for row in cells(text)}
    gap = "points above baseline, 95 %"
    # The pairs differ by 0.03, 0.01 and 0.02: half the interval is 4.3027 * 0.01 / sqrt(3).
    assert rows["other"][gap] == "+2.00 (-0.48 to +4.48)"
    assert rows["other"]["test accuracy, 95 %"] == "91.52% to 96.48%"
    assert rows["other"]["seeds to tell apart"] == "5"
    assert rows["baseline"][gap] == "" and rows["baseline"]["seeds to tell apart"] == ""
    assert (rows["single/seed_0"][gap], rows["single/seed_0"]["seeds to tell apart"]) == (
        "-42.00",
        "",
    )
    assert text.splitlines()[-1].startswith(
        "The ranking rests on one seed (single/seed_0: each has"
    )
