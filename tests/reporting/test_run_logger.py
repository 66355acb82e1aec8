"""The run logger: CSV rows, printed lines, progress bar and TensorBoard events."""

import sys

import pytest

from jaxcifar.errors import InputError
from jaxcifar.reporting import throughput
from jaxcifar.reporting.csv_log import read_rows
from jaxcifar.reporting.format import CSV_COLUMNS, METRICS, describe, duration
from jaxcifar.reporting.run_logger import RunLogger
from jaxcifar.reporting.throughput import Throughput


def open_logger(tmp_path, first_step=0, **kwargs):
    arguments = {"num_steps": 100, "steps_per_epoch": 7.8125, "tensorboard": False, "active": True}
    return RunLogger(tmp_path, first_step=first_step, **{**arguments, **kwargs})


def rows(tmp_path):
    return read_rows(tmp_path / "metrics.csv")


TRAIN = {"loss": 1.25, "accuracy": 0.5, "learning_rate": 0.1, "images_per_second": 1234.5}
TEST = {"loss": 2.0, "accuracy": 1 / 3}


def test_csv_has_a_row_for_each_interval_and_evaluation(tmp_path):
    with open_logger(tmp_path) as logger:
        logger.log_train(10, TRAIN, 60.0)
        logger.log_evaluation(10, "test", TEST)
    train, test = rows(tmp_path)
    assert (train["step"], train["epoch"], train["split"]) == ("10", "1.2800", "train")
    assert (train["loss"], train["accuracy"]) == ("1.25", "0.5")
    assert (train["learning_rate"], train["images_per_second"]) == ("0.1", "1234.5")
    assert (test["split"], test["accuracy"], test["learning_rate"]) == ("test", "0.3333333", "")
    assert test["time"].endswith("+00:00")


def test_csv_rows_after_the_checkpoint_are_replaced_on_resume(tmp_path):
    with open_logger(tmp_path) as logger:
        for step in (10, 20, 30):
            logger.log_train(step, TRAIN, None)
            logger.log_evaluation(step, "test", TEST)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("40,5.12,tra")  # killed in the middle of a line
    with open_logger(tmp_path, first_step=25) as logger:
        logger.log_train(30, TRAIN, None)
        logger.log_train(40, TRAIN, None)
    assert [(r["step"], r["split"]) for r in rows(tmp_path)] == [
        *(("10", "train"), ("10", "test"), ("20", "train"), ("20", "test")),
        *(("30", "train"), ("40", "train")),
    ]


def test_a_line_that_nobody_reads_is_no_error(tmp_path, monkeypatch):
    def write(text):
        raise BrokenPipeError

    with open_logger(tmp_path) as logger:
        monkeypatch.setattr(sys.stdout, "write", write)
        logger.log_evaluation(10, "test", TEST)
        logger.print("text")
    monkeypatch.undo()
    assert len(rows(tmp_path)) == 1


def test_a_new_start_drops_the_rows_of_a_run_without_checkpoint(tmp_path):
    with open_logger(tmp_path) as logger:
        logger.log_train(10, TRAIN, None)
    with open_logger(tmp_path):
        pass
    assert rows(tmp_path) == []


def test_without_a_terminal_plain_lines_are_printed(tmp_path, capsys):
    with open_logger(tmp_path) as logger:
        logger.print("2 x cpu, [bold]as it is[/bold]")
        logger.show_step(9)
        logger.log_train(10, TRAIN, 3723.0)
        logger.log_evaluation(10, "test", TEST)
    assert capsys.readouterr().out.splitlines() == [
        "2 x cpu, [bold]as it is[/bold]",
        "step 10/100  epoch 1.28  loss 1.2500  accuracy 50.00%  learning rate 0.1  1,234 images/s"
        "  1:02:03 left",
        "test at step 10, epoch 1.28: loss 2.0000  accuracy 33.33%",
    ]


def test_a_terminal_shows_a_progress_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with open_logger(tmp_path) as logger:
        logger.show_step(9)
        logger.log_train(10, TRAIN, 60.0)
    shown = capsys.readouterr().out
    assert "9/100" in shown and "1,234 images/s" in shown and "01:00 left" in shown
    assert "\x1b[" in shown


def test_other_processes_write_and_show_nothing(tmp_path, capsys):
    with open_logger(tmp_path, active=False, tensorboard=True) as logger:
        logger.print("hello")
        logger.log_train(10, TRAIN, None)
    assert not capsys.readouterr().out and not list(tmp_path.iterdir())


def test_tensorboard_has_the_same_scalars(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    with open_logger(tmp_path, tensorboard=True) as logger:
        logger.log_train(10, TRAIN, None)
        logger.log_evaluation(20, "test", TEST)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = {
        tag: [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }
    assert found["train/loss"] == [(10, 1.25)]
    assert found["train/images_per_second"] == [(10, 1234.5)]
    assert found["test/accuracy"] == [(20, pytest.approx(1 / 3))]


@pytest.fixture
def without_tensorflow(monkeypatch):
    from jaxcifar.environment import import_tensorflow

    import_tensorflow.cache_clear()
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    yield
    import_tensorflow.cache_clear()


def test_without_tensorflow_there_are_no_event_files_and_a_line_says_why(
    without_tensorflow, tmp_path, capsys
):
    with open_logger(tmp_path, tensorboard=True) as logger:
        logger.log_train(10, TRAIN, None)
    line, *_ = capsys.readouterr().out.splitlines()
    assert "tensorflow" in line and "pip install 'jaxcifar[tf]'" in line
    assert not logger.writes_events
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_histograms_are_an_error_without_tensorflow(without_tensorflow, tmp_path):
    with pytest.raises(InputError, match="log.histograms = True.*pip install 'jaxcifar.tf.'"):
        open_logger(tmp_path, tensorboard=True, histograms=True)


def test_every_metric_has_a_column_and_a_text():
    assert set(CSV_COLUMNS) == {"step", "epoch", "split", "time", *(m.name for m in METRICS)}
    for metric in METRICS:
        assert describe({metric.name: 3}) == metric.text.format(3)


def test_throughput_counts_only_what_is_timed(monkeypatch):
    now = 0.0
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now)
    clock = Throughput()
    clock.add(128)
    now = 50.0  # compilation: not started yet
    clock.stop()
    assert clock.rate() is None
    clock.start()
    clock.add(150)
    clock.add(50)
    now = 52.0
    clock.stop()
    now = 90.0  # evaluation
    clock.start()
    clock.add(300)
    now = 93.0
    clock.stop()
    assert clock.rate() == 100.0
    assert clock.rate() is None


def test_metrics_and_durations_are_formatted_for_reading():
    assert describe({"loss": 0.1, "accuracy": 0.91254}) == "loss 0.1000  accuracy 91.25%"
    assert [duration(s) for s in (0, 59.6, 3599, 3600)] == ["00:00", "01:00", "59:59", "1:00:00"]


def test_the_display_shows_the_losses_and_the_best_accuracy_since_the_run_began(tmp_path):
    with open_logger(tmp_path) as logger:
        for step, loss, accuracy in (10, 4.0, 0.6), (20, 2.0, 0.7):
            logger.log_train(step, {**TRAIN, "loss": loss}, None)
            logger.log_evaluation(step, "test", {"loss": 1.0, "accuracy": accuracy})
    with open_logger(tmp_path, first_step=20) as logger:
        logger._console._force_terminal = True
        logger.log_train(30, {**TRAIN, "loss": 0.5}, 60.0)
        metrics, so_far = logger._status.plain.splitlines()
        assert "loss 0.5000" in metrics
        assert so_far == "loss █▄▁  best test accuracy 70.00%"
        logger.log_evaluation(30, "validation", {"loss": 1.0, "accuracy": 0.5})
        logger.log_evaluation(30, "test", {"loss": 1.0, "accuracy": 0.9})
        logger.log_train(40, {**TRAIN, "loss": 0.5}, 60.0)
        assert logger._status.plain.endswith("best validation accuracy 50.00%")
