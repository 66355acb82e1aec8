"""Logs a run's metrics to the terminal, CSV files and TensorBoard."""

import copy
import datetime
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from jaxcifar.metrics.layer_statistics import Statistics, troubled_layers
from jaxcifar.reporting.console import Console
from jaxcifar.reporting.csv_log import CsvLog, read_rows
from jaxcifar.reporting.event_files import load_writer
from jaxcifar.reporting.format import CSV_COLUMNS, describe, duration
from jaxcifar.reporting.layer_table import LAYER_COLUMNS, layer_histograms, layer_rows
from jaxcifar.reporting.sparkline import sparkline
from jaxcifar.reporting.table_damage import Steps

_SPARKLINE = 40  # columns
_KEPT = ("loss", "accuracy")


class RunLogger:
    """Writes `metrics.csv`, `layers.csv` and TensorBoard events, and reports on the terminal.

    On a terminal the current training metrics and a progress bar stay below the printed lines;
    otherwise the metrics are printed as plain lines. A context manager.

    Attributes:
      writes_events: whether TensorBoard event files are written.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        first_step: int,
        num_steps: int,
        steps_per_epoch: float,
        tensorboard: bool,
        active: bool,
        histograms: bool = False,
        layers: bool = False,
        allow_zero: bool = False,
        expected_rows: Mapping[str, Mapping[str, Steps]] | None = None,
        console: Console | None = None,
    ):
        """Opens the files and drops the CSV rows after `first_step`.

        Prints which of the rows up to that step are missing, doubled or cut short.

        Args:
          workdir: an existing directory.
          first_step: step from which training resumes. Later rows were written by an attempt that
            ended before its next checkpoint; they will be written again.
          num_steps: total number of steps of the run.
          steps_per_epoch: need not be an integer.
          tensorboard: whether to write event files. Without TensorFlow a line is printed instead.
          active: False in all processes except the first; nothing is written or shown.
          histograms: whether histograms will be logged, which only event files can hold.
          layers: whether layer statistics will be logged.
          allow_zero: whether gradients of a layer may be exactly 0 without a warning.
          expected_rows: `rows` as they were at `first_step`; None if they are unknown.
          console: where to print; None for standard output.

        Raises:
          InputError: if a CSV file was not written by jaxcifar, or histograms are asked for and
            TensorFlow is not installed.
        """
        self._steps_per_epoch = steps_per_epoch
        self._num_steps = num_steps
        self._console = console or Console(quiet=not active, soft_wrap=True, highlight=False)
        open_events = None
        if active and tensorboard:
            open_events, why_not = load_writer(required=histograms)
            if why_not:
                self.print(why_not)
        expected = expected_rows or {}

        def open_table(name: str, columns: Sequence[str]) -> CsvLog:
            table = CsvLog(workdir / name, columns, first_step, expected.get(name))
            for warning in table.warnings:
                self.print(f"warning: {warning}")
            return table

        self._csv = open_table("metrics.csv", CSV_COLUMNS) if active else None
        self._layers = open_table("layers.csv", LAYER_COLUMNS) if active and layers else None
        self._losses: list[float] = []
        self._best: dict[str, float] = {}
        for row in read_rows(workdir / "metrics.csv") if self._csv else ():
            self._remember(row["split"], {k: float(v) for k, v in row.items() if k in _KEPT and v})
        self._allow_zero = allow_zero
        self._layer_warnings: list[str] = []
        self._events = open_events(workdir) if open_events else None
        self.writes_events = self._events is not None
        self._status = Text("compiling")
        self._bar = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}")
        )
        self._task = self._bar.add_task("", completed=first_step, total=num_steps)
        self._live = Live(Group(self._status, self._bar), console=self._console)

    def __enter__(self) -> "RunLogger":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._live.stop()
        for csv_log in filter(None, (self._csv, self._layers)):
            csv_log.close()
        if self._events:
            self._events.close()

    def print(self, text: str) -> None:
        """Prints a line that stays above the progress bar, or nowhere if there is no reader."""
        with suppress(BrokenPipeError):  # `Signals` stops the run, once its state is saved
            self._console.print(text, markup=False)

    def rows(self) -> dict[str, dict[str, Steps]]:
        """Returns the steps of the rows written so far, by file and split or layer."""
        tables = {"metrics.csv": self._csv, "layers.csv": self._layers}
        return {name: copy.deepcopy(table.steps) for name, table in tables.items() if table}

    def sync(self) -> None:
        """Makes sure that all rows of the CSV files are on disk; may be called from any thread.

        Raises:
          StoppedError: if that fails.
        """
        for csv_log in filter(None, (self._csv, self._layers)):
            csv_log.sync()

    def show_step(self, step: int) -> None:
        """Moves the progress bar to `step`."""
        self._bar.update(self._task, completed=step)

    def log_train(
        self, step: int, scalars: Mapping[str, float], seconds_left: float | None
    ) -> None:
        """Logs training metrics.

        Args:
          step: number of updates made.
          scalars: metrics by name, see `format.METRICS`.
          seconds_left: estimated time to the end of the run; None if unknown.
        """
        self._write(step, "train", scalars)
        text = f"epoch {step / self._steps_per_epoch:.2f}  {describe(scalars)}"
        left = "" if seconds_left is None else f"{duration(seconds_left)} left"
        if self._console.is_terminal:
            self._status.plain = f"{text}\n{self._so_far()}"
            self._bar.update(self._task, description=left)
        else:
            self.print(f"step {step:,}/{self._num_steps:,}  {text}  {left}".rstrip())

    def log_evaluation(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
        """Logs and prints the metrics of an evaluation.

        Args:
          step: number of updates made.
          split: name of the split, or "weights" for metrics of the weights.
          scalars: metrics by name, see `format.METRICS`.
        """
        self._write(step, split, scalars)
        epoch = step / self._steps_per_epoch
        self.print(f"{split} at step {step:,}, epoch {epoch:.2f}: {describe(scalars)}")

    def log_layers(self, step: int, statistics: Statistics) -> None:
        """Logs layer statistics and prints warnings that the last call did not give.

        Args:
          step: number of updates made.
          statistics: see `layer_statistics.layer_statistics`, fetched to the host.
        """
        if self._layers is None:
            return
        self._layers.write(layer_rows(step, step / self._steps_per_epoch, statistics))
        if self._events:
            tagged = {
                f"layers/{layer}/{name}": float(value)
                for layer, values in statistics.items()
                for name, value in values.items()
            }
            self._events.write_scalars(step, tagged)
        warnings = troubled_layers(statistics, allow_zero=self._allow_zero)
        for warning in warnings:
            if warning not in self._layer_warnings:
                self.print(f"warning: step {step:,}: {warning}")
        self._layer_warnings = warnings

    def log_histograms(self, step: int, params: Any, gradients: Any) -> None:
        """Writes histograms of all weights and gradients to the event files.

        Args:
          step: number of updates made.
          params, gradients: trees of the same structure, fetched to the host.
        """
        if self._events:
            self._events.write_histograms(step, layer_histograms(params, gradients))

    def _remember(self, split: str, scalars: Mapping[str, float]) -> None:
        """Keeps what `_so_far` shows."""
        if split == "train":
            self._losses.append(scalars.get("loss", math.nan))
        elif "accuracy" in scalars:
            self._best[split] = max(scalars["accuracy"], self._best.get(split, 0.0))

    def _so_far(self) -> str:
        """A sparkline of the training losses, and the best accuracy, since the run began.

        That is on validation images, or on test images if there are no others.
        """
        best = [
            f"best {split} accuracy {self._best[split]:.2%}"
            for split in ("validation", "test")
            if split in self._best
        ]
        return "  ".join([f"loss {sparkline(self._losses, _SPARKLINE)}", *best[:1]])

    def _write(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
        self._remember(split, scalars)
        if self._csv:
            now = datetime.datetime.now(datetime.UTC)
            row = {
                "step": step,
                "epoch": f"{step / self._steps_per_epoch:.4f}",
                "split": split,
                **{name: f"{value:.7g}" for name, value in scalars.items()},
                "time": now.isoformat(timespec="milliseconds"),
            }
            self._csv.write([row])
        if self._events:
            tagged = {f"{split}/{name}": value for name, value in scalars.items()}
            self._events.write_scalars(step, tagged)
