"""Ratios, targets and a Markdown report from the measurements of benchmark.py."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

OURS, EAGER, COMPILED = "jaxcifar", "PyTorch eager", "PyTorch compiled"

Result = dict[str, Any]
"""The measurements of one configuration.

model, batch_size, precision; parameters, macs; epoch_task: the task that trains as a run does;
rates: images (for "matrix": operations) per second by side, task and round; starts: seconds by side
and "cold" or "warm"; memory: GiB by side; notes: failures.
"""

_EPOCH_TIME = "augmented epoch / fixed batch, time per step"
_MANY = "many steps per call / one, images/s"
_EPOCH = "augmented epoch / {}, images/s"
_STEP = "train step / {}, images/s"
_EVALUATION = "evaluation / {}, images/s"
_MEMORY = "peak memory / {}"
_START = "warm start / cold start of {}, time to the first step"
_TF = "tf.data alone, images/s"


class Target(NamedTuple):
    """A performance target for certain configurations.

    Attributes:
      comparison: name of a comparison, see `comparisons`.
      limit: lowest acceptable median, or the highest if `at_most`.
      backend: gpu or cpu; "" for all.
      models: names of the models; () for all.
      batch_size, precision: training configuration; 0 and "" for all.
    """

    comparison: str
    limit: float
    at_most: bool = False
    backend: str = ""
    models: tuple[str, ...] = ()
    batch_size: int = 0
    precision: str = ""

    def applies(self, result: Result, backend: str) -> bool:
        """Returns whether the target applies to this configuration."""
        return (
            self.backend in ("", backend)
            and (not self.models or result["model"] in self.models)
            and self.batch_size in (0, result["batch_size"])
            and self.precision in ("", result["precision"])
        )

    def met(self, median: float) -> bool:
        """Returns whether a median is within the limit."""
        return median <= self.limit if self.at_most else median >= self.limit


_SMALL = ("resnet20", "resnet56", "resnet110")
TARGETS = (
    Target(_EPOCH_TIME, 1.02, at_most=True, backend="gpu"),
    Target(_EPOCH_TIME, 1.10, at_most=True, backend="cpu"),
    Target(_MANY, 1.0, backend="gpu"),
    Target(_MANY, 2.0, backend="gpu", models=("resnet20",), batch_size=128),
    Target(_MANY, 0.9, backend="cpu"),
    Target(_EPOCH.format(COMPILED), 1.25, False, "gpu", ("resnet18",), 512, "bfloat16"),
    Target(_EPOCH.format(EAGER), 3.0, False, "gpu", _SMALL, 128),
    Target(_EPOCH.format(COMPILED), 1.3, False, "gpu", _SMALL, 128),
    Target(_EPOCH.format(COMPILED), 1.5, False, "gpu", ("densenet121",)),
    Target(_MEMORY.format(COMPILED), 1.0, True, "gpu", ("densenet121",)),
    Target(_EPOCH.format(EAGER), 1.3, False, "cpu", ("speedrun94",), 512, "float32"),
    Target(_EPOCH.format(EAGER), 1.3, False, "cpu", ("resnet20",), 128, "float32"),
    Target(_EPOCH.format(EAGER), 1.3, False, "cpu", ("resnet18",), 32, "float32"),
    Target(_EPOCH.format(EAGER), 1.3, False, "cpu", ("densenet_bc_100_12",), 64, "float32"),
    Target(_TF, 20_000),
    Target(_START.format(COMPILED), 0.25, at_most=True),
)


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Returns one ratio per round."""
    return [one / other for one, other in zip(numerators, denominators, strict=True)]


def comparisons(result: Result) -> dict[str, list[float]]:
    """Returns the ratios of jaxcifar to the other side, by comparison and round."""
    rates, compared = result["rates"], {}

    def compare(name: str, one: tuple[str, str], other: tuple[str, str]) -> None:
        values = [rates.get(side, {}).get(task) for side, task in (one, other)]
        if all(values):
            compared[name] = ratios(*values)

    epoch = (OURS, result["epoch_task"])
    compare(_EPOCH_TIME, (OURS, "fixed"), epoch)  # the inverse of the ratio of the rates
    compare(_MANY, (OURS, "many"), (OURS, "device"))
    for peer in (EAGER, COMPILED):
        compare(_EPOCH.format(peer), epoch, (peer, "device"))
        compare(_STEP.format(peer), (OURS, "fixed"), (peer, "fixed"))
        compare(_EVALUATION.format(peer), (OURS, "evaluation"), (peer, "evaluation"))
        if {OURS, peer} <= result["memory"].keys():
            compared[_MEMORY.format(peer)] = [result["memory"][OURS] / result["memory"][peer]]
        if {OURS, peer} <= result["starts"].keys():
            seconds = result["starts"][OURS]["warm"]["seconds"]
            cold = result["starts"][peer]["cold"]["seconds"]
            compared[_START.format(peer)] = [seconds / cold]
    if values := rates.get(OURS, {}).get("pipeline"):
        compared[_TF] = values
    return compared


def summary(result: Result, backend: str) -> Result:
    """Summarises a configuration's measurements.

    Returns:
      `comparisons`: with median, least and greatest.
      `targets`: with whether they are met.
      `compile_seconds`: by side and start, the time of the first step less that of a later one.
      `peak_share`: by side, the train step's floating-point operations (3 * 2 per multiply-add of
      the forward pass) over those of the matrix product in the same time.
    """
    rates = result["rates"]
    compared = {
        name: {"median": statistics.median(x), "least": min(x), "greatest": max(x), "rounds": x}
        for name, x in comparisons(result).items()
    }
    targets = [
        {
            **{"comparison": target.comparison, "limit": target.limit, "at_most": target.at_most},
            "median": compared[target.comparison]["median"],
            "met": target.met(compared[target.comparison]["median"]),
        }
        for target in TARGETS
        if target.applies(result, backend) and target.comparison in compared
    ]
    steps = {
        side: result["batch_size"] / statistics.median(tasks["fixed"])
        for side, tasks in rates.items()
        if tasks.get("fixed")
    }
    compile_seconds = {
        side: {
            kind: max(0.0, start["first_call_seconds"] - steps[side])
            for kind, start in result["starts"][side].items()
        }
        for side in steps
    }
    peak_share = {}
    if products := rates.get(OURS, {}).get("matrix"):
        flops = 3 * 2 * result["macs"] * result["batch_size"]
        peak_share = {side: flops / seconds / max(products) for side, seconds in steps.items()}
    return {
        "comparisons": compared,
        "targets": targets,
        "compile_seconds": compile_seconds,
        "peak_share": peak_share,
    }


def markdown(report: dict[str, Any]) -> str:
    """Formats a report: the `manifest` of the start, `arguments`, `data` and `results`."""
    arguments, hardware, results = report["arguments"], report["hardware"], report["results"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    peers = sorted({result["peer"] for result in results if "peer" in result})
    environment = [f"{name}={value}" for name, value in report["environment"].items()]
    many = arguments["steps_per_call"]
    facts = (
        f"{report['time']}, commit {report['commit'] or 'unknown'}",
        f"{len(hardware['devices'])} x {hardware['devices'][0]}; {hardware['processor']}, "
        f"{hardware['cores']} cores",
        versions,
        *peers,
        f"jaxcifar's settings: {' '.join(environment) or 'none'}",
        f"{report['data']}; crop and flip; medians of {arguments['rounds']} rounds; "
        f"`{' '.join(report['command'])}`",
    )
    speed = ["train step", "epoch, 1 step a call", f"epoch, {many} steps a call", "epoch, tf.data"]
    start = ["first step, cold", "compiling", "first step, warm", "compiling"]
    sections = (
        "# Benchmark\n\n" + "\n".join(f"- {fact}" for fact in facts),
        "## Images per second\n\n"
        + _table(
            ["configuration", "", *speed, "evaluation", "tf.data alone", "share of matrix peak"],
            [row for result in results for row in _speed_rows(result)],
        ),
        "## Start in seconds, and peak memory in training\n\n"
        + _table(
            ["configuration", "", *start, "GiB"],
            [row for result in results for row in _start_rows(result)],
        ),
        "## Ratios\n\n"
        + _table(
            ["configuration", "jaxcifar's", "median", "least", "greatest"],
            [
                [_name(result), name, *(_number(x[key]) for key in ("median", "least", "greatest"))]
                for result in results
                for name, x in result["comparisons"].items()
            ],
        ),
        "## Targets\n\n"
        + _table(
            ["configuration", "jaxcifar's", "target", "measured", "met"],
            [
                [
                    *(_name(result), target["comparison"]),
                    f"at {'most' if target['at_most'] else 'least'} {_number(target['limit'])}",
                    *(_number(target["median"]), "yes" if target["met"] else "**no**"),
                ]
                for result in results
                for target in result["targets"]
            ],
        ),
    )
    notes = [f"- {_name(result)}: {note}" for result in results for note in result["notes"]]
    return "\n\n".join([*sections, *(["## Notes\n\n" + "\n".join(notes)] if notes else [])]) + "\n"


def _speed_rows(result: Result) -> list[list[str]]:
    tasks = ("fixed", "device", "many", "tf", "evaluation", "pipeline")
    return [
        [
            *(_name(result), _label(result, side)),
            *(_number(statistics.median(rates[t])) if rates.get(t) else "" for t in tasks),
            f"{result['peak_share'][side]:.1%}" if side in result["peak_share"] else "",
        ]
        for side, rates in result["rates"].items()
    ]


def _start_rows(result: Result) -> list[list[str]]:
    rows = []
    for side, starts in result["starts"].items():
        row = [_name(result), _label(result, side)]
        for kind in ("cold", "warm"):
            seconds = starts.get(kind, {}).get("seconds")
            compiling = result["compile_seconds"].get(side, {}).get(kind)
            row += ["" if x is None else f"{x:.1f}" for x in (seconds, compiling)]
        memory = result["memory"].get(side)
        rows.append([*row, "" if memory is None else f"{memory:.2f}"])
    return rows


def _name(result: Result) -> str:
    return f"{result['model']}@{result['batch_size']} {result['precision']}"


def _label(result: Result, side: str) -> str:
    return f"{side} ({result['compile_mode']})" if side == COMPILED else side


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
