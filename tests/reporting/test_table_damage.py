"""Rows of a run's tables that are missing, doubled or cut short before the checkpoint."""

import pytest

from jaxcifar.errors import InputError
from jaxcifar.reporting import table_damage
from jaxcifar.reporting.csv_log import CsvLog, read_rows

COLUMNS = ("step", "epoch", "split", "loss", "time")


def row(step, split="train", loss="0.5"):
    return {"step": step, "epoch": step / 4, "split": split, "loss": loss, "time": f"12:{step:02}"}


@pytest.fixture
def table(tmp_path):
    """A table with rows at steps 5 to 30, and evaluations at 12 and 24; and its steps."""
    path = tmp_path / "metrics.csv"
    log = CsvLog(path, COLUMNS, 0)
    for step in (5, 10, 12, 15, 20, 24, 25, 30):
        splits = ("validation", "test") if step % 12 == 0 else ("train",)
        log.write(row(step, split) for split in splits)
    log.close()
    assert log.steps == {
        "train": [[5, 30, 5]],
        "validation": [[12, 24, 12]],
        "test": [[12, 24, 12]],
    }
    return path, log.steps


def opened(path, step, expected=None):
    """Returns what a resumed run says of a table, without the path, and its rows."""
    log = CsvLog(path, COLUMNS, step, expected)
    log.close()
    assert all(warning.startswith(f"{path}: ") for warning in log.warnings)
    rows = [(int(row["step"]), row["split"]) for row in read_rows(path)]
    return [warning.removeprefix(f"{path}: ") for warning in log.warnings], rows


def test_an_intact_table_is_continued_without_a_word(table):
    path, steps = table
    before = path.read_text()
    assert opened(path, 30, steps)[0] == [] and path.read_text() == before
    # A kill leaves part of a row after the checkpoint.
    with path.open("a") as file:
        file.write("35,8.75,tr")
    assert opened(path, 30, steps)[0] == [] and path.read_text() == before


def test_steps_of_missing_rows_are_said(table):
    path, steps = table
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if line.split(",")[0] not in ("10", "15", "24")))
    warnings, rows = opened(path, 30, steps)
    assert warnings == ["rows are missing: train at steps 10, 15; validation, test at step 24"]
    assert len(rows) == len(lines) - 1 - 4
    path.unlink()
    assert opened(path, 30, steps)[0] == [
        "rows are missing: train at steps 5 to 30 (every 5); validation, test at steps 12, 24"
    ]
    path.write_text("")
    assert len(opened(path, 30, steps)[0]) == 1
    assert opened(path, 0)[0] == []


def test_a_copy_of_a_row_is_dropped_and_two_that_differ_are_kept(table):
    path, steps = table
    before = path.read_text()
    with path.open("a") as file:
        file.write(before.splitlines(keepends=True)[-1])
    warnings, _ = opened(path, 30, steps)
    assert warnings == ["rows are there twice, and the copies are dropped: train at step 30"]
    assert path.read_text() == before
    with path.open("a") as file:
        file.write("30,7.5,train,0.75,12:31\n")
    warnings, rows = opened(path, 30, steps)
    assert warnings == ["rows are there twice but differ, and both are kept: train at step 30"]
    assert rows[-2:] == [(30, "train"), (30, "train")]


def test_a_last_line_cut_short_before_the_checkpoint_is_said(table):
    path, steps = table
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + "30,7.5,tra")
    warnings, rows = opened(path, 30, steps)
    assert warnings == [
        "the last line, of step 30, is cut short and dropped: 30,7.5,tra",
        "rows are missing: train at step 30",
    ]
    assert rows[-1] == (25, "train")


def test_a_last_row_that_lacks_only_its_end_of_line_is_kept(table):
    path, steps = table
    before = path.read_text()
    path.write_text(before.rstrip())
    warnings, _ = opened(path, 30, steps)
    assert warnings == ["the last line, of step 30, has no end: its time may be cut short"]
    assert path.read_text() == before


@pytest.mark.parametrize("end", ["3", "\0\0,\0\0", ",,,"])
def test_an_end_that_names_no_step_is_dropped(table, end):
    path, steps = table
    before = path.read_text()
    path.write_text(before + end)
    assert opened(path, 30, steps)[0] == [] and path.read_text() == before


def test_a_line_too_long_for_a_table_is_refused(table):
    path, _ = table
    with path.open("a") as file:
        file.write(f"31,7.75,train,{'1' * 200_000},12:31\n")
    with pytest.raises(InputError, match="not a metrics table"):
        opened(path, 40)


def test_irregular_steps_are_kept_as_ranges():
    steps = {}
    for step in (1, 100, 200, 300, 300, 301, 302, 303):
        table_damage.add_step(steps, "train", step)
    assert steps == {"train": [[1, 100, 99], [200, 300, 100], [301, 303, 1]]}
    assert table_damage.describe_missing(steps, steps) == ""
    found = {"train": [[1, 1, 0], [302, 302, 0]]}
    assert table_damage.describe_missing(steps, found) == (
        "train at steps 100 to 300 (every 100), 301, 303"
    )
    layers = {f"conv{n}": [[5, 5, 0]] for n in range(8)}
    assert table_damage.describe_missing(layers, {}) == (
        "conv0, conv1, conv2, conv3, conv4 and 3 more at step 5"
    )
