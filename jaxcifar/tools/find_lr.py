"""Finds a learning rate for a recipe: the learning-rate range test of Smith 2017.

    jaxcifar find-lr --config configs/resnet20.py
    jaxcifar find-lr --config configs/resnet20.py --seeds 0,1,2 --steps 300 --out rates.png

The recipe is trained for a few hundred steps while the rate rises exponentially from --low to
--high. Suggested is a tenth of the rate at which the smoothed loss, averaged over the seeds, is
lowest; nothing is suggested from a curve that is too noisy. --out draws the curve, and a .csv file
of the same name has its numbers. Drawing needs the extra "figures".
"""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import config_flags

from jaxcifar.errors import InputError
from jaxcifar.tools import cli

if TYPE_CHECKING:  # slow to import
    from jaxcifar.tools.range_test import Curve, Suggestion

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe file, e.g. configs/resnet20.py.", lock_config=True
)
_LOW = flags.DEFINE_float("low", 1e-4, "Learning rate of the first step.", lower_bound=1e-12)
_HIGH = flags.DEFINE_float("high", 10.0, "Learning rate of the last step.")
_STEPS = flags.DEFINE_integer("steps", 200, "Number of steps.", lower_bound=20)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds to average over.")
_OUT = flags.DEFINE_string("out", None, "PNG, SVG or PDF file to draw the curve in.")


def main() -> None:
    """Runs the test that the flags describe, and prints what it suggests."""
    if not _LOW.value < _HIGH.value:
        raise InputError(f"--high={_HIGH.value}: must be above --low={_LOW.value}")
    if not all(seed.strip().isdecimal() for seed in _SEEDS.value):
        raise InputError(f"--seeds={','.join(_SEEDS.value)}: must be numbers, e.g. 0,1,2")
    out = Path(_OUT.value) if _OUT.value else None
    if out:
        _check_output(out)
    from jaxcifar.tools import range_test  # slow to import; --help does not need it

    seeds = [int(seed) for seed in _SEEDS.value]
    curve = range_test.measure(_CONFIG.value, _LOW.value, _HIGH.value, _STEPS.value, seeds)
    suggestion = range_test.suggest(curve)
    if out:
        _write_csv(curve, out.with_suffix(".csv"))
        _draw(curve, suggestion, out)
        print(f"written: {out} and {out.with_suffix('.csv')}")
    if suggestion.rate is None:
        print(f"no suggestion: {suggestion.reason}")
    else:
        rate = f"--config.optimizer.learning_rate={suggestion.rate:.2g}"
        print(f"suggested: {rate} ({suggestion.reason})")


def _check_output(out: Path) -> None:
    if out.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"--out={out}: the file name must end in .png, .svg or .pdf")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            "--out: matplotlib is not installed; install it with pip install 'jaxcifar[figures]'"
        ) from error


def _write_csv(curve: "Curve", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["learning_rate", *(f"loss_{n}" for n in range(len(curve.losses)))])
        for rate, losses in zip(curve.rates, curve.losses.T, strict=True):
            writer.writerow([f"{rate:.6g}", *(f"{loss:.6g}" for loss in losses)])


def _draw(curve: "Curve", suggestion: "Suggestion", path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    smoothed = curve.smoothed()
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for losses in curve.losses:
        axes.plot(curve.rates, losses, color="0.8", linewidth=0.8)
    axes.plot(curve.rates, smoothed.mean(axis=0), color="#0b62c4", label="smoothed, mean of seeds")
    if suggestion.rate is not None:
        axes.axvline(
            suggestion.rate, color="#d9630b", linestyle="--", label=f"{suggestion.rate:.2g}"
        )
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main, __doc__)
