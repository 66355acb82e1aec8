"""The tables and sentences that show what results/ holds."""

import itertools
import statistics
import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
from rows import ROWS, SWEEPS, Row
from runs import Predictions, Run

Found = dict[str, list[Run]]  # runs by the name of their row


def recipes(found: Found) -> str:
    """Returns the Markdown table of the recipes; those without a run are open."""
    lines = _head(
        "recipe, seeds, test accuracy, one view, time per run, images/s, hardware, commit"
    )
    for name, row in ROWS.items():
        link, runs = f"[{row.title}](configs/{row.recipe})", found[name]
        if not runs:
            lines.append(_line(link, "", "open", "", "", "", "", ""))
            continue
        one_view = [run.one_view_accuracy for run in runs if run.one_view_accuracy is not None]
        lines.append(
            _line(
                link,
                str(len(runs)),
                accuracy([run.accuracy for run in runs]),
                accuracy(one_view),
                duration(statistics.median(run.minutes for run in runs)),
                f"{statistics.median(run.images_per_second for run in runs):,.0f}",
                _each(run.hardware for run in runs),
                _each(run.commit for run in runs),
            )
        )
    return "\n".join(lines)


def commands(found: Found) -> str:
    """Returns the Markdown table of how the recipes were, or are to be, trained."""
    lines = _head("recipe, seeds, lowest and highest, versions, command")
    for name, row in ROWS.items():
        values = [run.accuracy for run in found[name]]
        lines.append(
            _line(
                row.title,
                f"{len(values)} of {row.seeds}" if values else "open",
                f"{100 * min(values):.2f}, {100 * max(values):.2f} %" if len(values) > 1 else "",
                _each(run.versions for run in found[name]),
                f"`{row.command()}`",
            )
        )
    return "\n".join(lines)


def sweep(name: str, found: Found) -> str:
    """Returns the Markdown table of a sweep's variants, each beside the first one."""
    rows = SWEEPS[name].rows()
    baseline, *_ = (found[row] for row in rows)
    lines = _head(
        "variant, seeds, accuracy, difference (standard error), time per run, hardware, commit"
    )
    for row_name, row in rows.items():
        runs = found[row_name]
        if not runs:
            lines.append(_line(row.title, f"open: `{row.command()}`", "", "", "", "", ""))
            continue
        lines.append(
            _line(
                row.title,
                str(len(runs)),
                accuracy([run.accuracy for run in runs]),
                "" if runs is baseline else difference(runs, baseline),
                duration(statistics.median(run.minutes for run in runs)),
                _each(run.hardware for run in runs),
                _each(run.commit for run in runs),
            )
        )
    return "\n".join(lines)


def measured(row: Row, runs: Sequence[Run]) -> str:
    """Returns the paragraph of a recipe's docstring."""
    seeds = f"{len(runs)} seeds" if len(runs) > 1 else "1 seed"
    one_view = [run.one_view_accuracy for run in runs if run.one_view_accuracy is not None]
    views = f", {accuracy(one_view)} without the test-time views" if one_view else ""
    settings = ", ".join(f"{path}={value:g}" for path, value in row.fields.items())
    text = (
        f"Measured: {accuracy([run.accuracy for run in runs])} test accuracy{views} ({seeds}"
        f"{f', {settings}' if settings else ''}), in "
        f"{duration(statistics.median(run.minutes for run in runs))} per run "
        f"({_each(run.hardware for run in runs)}, {_each(run.versions for run in runs)}, commit "
        f"{_each(run.commit for run in runs)})."
    )
    return "\n".join(textwrap.wrap(text, 100))


def shared_errors(found: Sequence[Predictions]) -> str:
    """Returns how many test errors several seeds of a row have in common, as a sentence."""
    wrong = np.array([run.labels != run.classes for run in found])
    pairs = list(itertools.combinations(wrong, 2))
    share = np.mean([2 * (one & other).sum() / (one.sum() + other.sum()) for one, other in pairs])
    return (
        f"Two seeds have {share:.0%} of their test errors in common (mean of {len(pairs)} "
        f"{'pairs' if len(pairs) > 1 else 'pair'}); were errors independent, it would be "
        f"{wrong.mean():.1%}. {wrong.any(axis=0).sum():,} images are wrong in at least one of "
        f"{len(found)} seeds, {wrong.all(axis=0).sum():,} in all."
    )


def accuracy(values: Sequence[float]) -> str:
    """Returns the mean of fractions in percent, with their standard deviation if there are two."""
    if not values:
        return ""
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{deviation} %"


def difference(runs: Sequence[Run], baseline: Sequence[Run]) -> str:
    """Returns the difference of two means of accuracy in percentage points."""
    samples = [[run.accuracy for run in group] for group in (runs, baseline)]
    if not baseline:
        return ""
    points = 100 * (statistics.mean(samples[0]) - statistics.mean(samples[1]))
    error = ""
    if min(map(len, samples)) > 1:
        variance = sum(statistics.variance(sample) / len(sample) for sample in samples)
        error = f" ({100 * variance**0.5:.2f})"
    return f"{points:+.2f}{error}"


def duration(minutes: float) -> str:
    """Returns a time in the unit that suits it."""
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _head(titles: str) -> list[str]:
    names = titles.split(", ")
    return [_line(*names), "|---" * len(names) + "|"]


def _line(*cells: str) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _each(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
