"""Where a run's numbers go: TensorBoard, a CSV file and the terminal."""

import datetime
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from jaxcifar.environment import import_tensorflow
from jaxcifar.metrics import layer_statistics
from jaxcifar.reporting.csv_log import Table

_COLUMNS = (
    "step",
    "epoch",
    "split",
    "loss",
    "accuracy",
    "top5_accuracy",
    "calibration_error",
    "skipped",
    "learning_rate",
    "loss_scale",
    "skipped_steps",
    "images_per_second",
    "peak_memory",
    "negative",
    "zero",
    "positive",
    "time",
)


class Writers:
    """All of them together: `metrics.csv`, `layers.csv`, TensorBoard events and the terminal.

    On a terminal the training metrics and a bar stand below the lines that are printed; elsewhere
    the metrics become plain lines. A context manager.
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
        layers: bool = False,
        allow_zero: bool = False,
    ):
        """Opens the files, and drops what the CSV has beyond `first_step`.

        Args:
          workdir: an existing directory.
          first_step: the step that the run goes on from; rows after it come from an attempt whose
            later checkpoint does not exist, and will be written again.
          num_steps: the run's length.
          steps_per_epoch: need not be whole.
          tensorboard: whether to write events, which needs TensorFlow.
          layers: whether there will be statistics of the layers.
          allow_zero: whether their gradients may be exactly 0.
          active: False, as in all processes but the first, writes and shows nothing.
        """
        self._steps_per_epoch = steps_per_epoch
        self._num_steps = num_steps
        self._csv = Table(workdir / "metrics.csv", _COLUMNS, first_step) if active else None
        self._layers = None
        if active and layers:
            self._layers = Table(workdir / "layers.csv", layer_statistics.COLUMNS, first_step)
        self._allow_zero = allow_zero
        self._troubles: list[str] = []
        self._events = None
        if active and tensorboard:
            import_tensorflow()
            from clu import metric_writers

            self._events = metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(workdir)))
        self._console = Console(quiet=not active, soft_wrap=True, highlight=False)
        self._status = Text("compiling")
        self._bar = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}")
        )
        self._task = self._bar.add_task("", completed=first_step, total=num_steps)
        self._live = Live(Group(self._status, self._bar), console=self._console)

    def __enter__(self) -> "Writers":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._live.stop()
        for table in filter(None, (self._csv, self._layers)):
            table.close()
        if self._events:
            self._events.close()

    def line(self, text: str) -> None:
        """Prints a line that stays."""
        self._console.print(text, markup=False)

    def step(self, step: int) -> None:
        """Moves the bar to `step`."""
        self._bar.update(self._task, completed=step)

    def train(self, step: int, scalars: Mapping[str, float], seconds_left: float | None) -> None:
        """Writes the training split's scalars after `step` updates, and shows the time left."""
        self._write(step, "train", scalars)
        text = f"epoch {step / self._steps_per_epoch:.2f}  {describe(scalars)}"
        left = "" if seconds_left is None else f"{duration(seconds_left)} left"
        if self._console.is_terminal:
            self._status.plain = text
            self._bar.update(self._task, description=left)
        else:
            self.line(f"step {step:,}/{self._num_steps:,}  {text}  {left}".rstrip())

    def evaluation(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
        """Writes and prints the scalars of a split, or of the weights, after `step` updates."""
        self._write(step, split, scalars)
        epoch = step / self._steps_per_epoch
        self.line(f"{split} at step {step:,}, epoch {epoch:.2f}: {describe(scalars)}")

    def layers(self, step: int, statistics: layer_statistics.Statistics) -> None:
        """Writes what each layer did in a step, and names those in trouble, when they change."""
        if self._layers is None:
            return
        self._layers.write(layer_statistics.rows(step, step / self._steps_per_epoch, statistics))
        if self._events:
            tagged = {
                f"layers/{layer}/{name}": float(value)
                for layer, values in statistics.items()
                for name, value in values.items()
            }
            self._events.write_scalars(step, tagged)
        troubles = layer_statistics.troubled_layers(statistics, allow_zero=self._allow_zero)
        for trouble in troubles:
            if trouble not in self._troubles:
                self.line(f"warning: step {step:,}: {trouble}")
        self._troubles = troubles

    def histograms(self, step: int, params: Any, gradients: Any) -> None:
        """Writes the distributions of all weights and gradients to TensorBoard."""
        if self._events:
            self._events.write_histograms(step, layer_statistics.histograms(params, gradients))

    def _write(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
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


class Throughput:
    """Measures images/s of the training steps alone: stopped during anything else."""

    def __init__(self):
        self._started: float | None = None
        self._seconds = 0.0
        self._images = 0
        self._added = 0

    def start(self) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def add(self, images: int) -> None:
        """Says that a step on so many images has been asked for."""
        self._added += images

    def stop(self) -> None:
        """Stops the clock once all of them are done; counts nothing if it was not started."""
        if self._started is not None:
            self._seconds += time.perf_counter() - self._started
            self._images += self._added
            self._started = None
        self._added = 0

    def rate(self) -> float | None:
        """Returns images/s since the last call, or None if nothing was counted."""
        rate = self._images / self._seconds if self._images else None
        self._images, self._seconds = 0, 0.0
        return rate


def describe(scalars: Mapping[str, float]) -> str:
    """Returns scalars as people read them, in one line without units that go without saying."""
    formats = {
        "loss": "loss {:.4f}",
        "accuracy": "accuracy {:.2%}",
        "top5_accuracy": "top-5 {:.2%}",
        "calibration_error": "calibration error {:.2%}",
        "skipped": "{:,.0f} images skipped",
        "learning_rate": "learning rate {:.4g}",
        "loss_scale": "loss scale {:.4g}",
        "skipped_steps": "{:,} steps skipped",
        "images_per_second": "{:,.0f} images/s",
        "peak_memory": "{:.1f} GiB",
        "negative": "{:.1%} at -1",
        "zero": "{:.1%} at 0",
        "positive": "{:.1%} at 1",
    }
    return "  ".join(
        text.format(scalars[name]) for name, text in formats.items() if name in scalars
    )


def duration(seconds: float) -> str:
    """Returns a duration as 1:02:03 or 02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"
