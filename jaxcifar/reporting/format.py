"""How metrics are named and formatted; the printed text and the CSV columns follow one table."""

from collections.abc import Mapping
from typing import NamedTuple


class Metric(NamedTuple):
    """A scalar that a run reports.

    Attributes:
      name: key in the scalars, column of metrics.csv, and last part of the TensorBoard tag.
      text: format of the printed value, with its label.
    """

    name: str
    text: str


# In the order in which they are printed and stand in metrics.csv.
METRICS = (
    Metric("loss", "loss {:.4f}"),
    Metric("accuracy", "accuracy {:.2%}"),
    Metric("top5_accuracy", "top-5 {:.2%}"),
    Metric("calibration_error", "calibration error {:.2%}"),
    Metric("skipped", "{:,.0f} images skipped"),
    Metric("learning_rate", "learning rate {:.4g}"),
    Metric("loss_scale", "loss scale {:.4g}"),
    Metric("skipped_steps", "{:,} steps skipped"),
    Metric("images_per_second", "{:,.0f} images/s"),
    Metric("peak_memory", "{:.1f} GiB"),
    Metric("negative", "{:.1%} at -1"),
    Metric("zero", "{:.1%} at 0"),
    Metric("positive", "{:.1%} at 1"),
)

CSV_COLUMNS = ("step", "epoch", "split", *(metric.name for metric in METRICS), "time")


def describe(scalars: Mapping[str, float]) -> str:
    """Returns scalars as one line of text; names that are not in `METRICS` are left out."""
    return "  ".join(
        metric.text.format(scalars[metric.name]) for metric in METRICS if metric.name in scalars
    )


def duration(seconds: float) -> str:
    """Returns a duration as 1:02:03 or 02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"
