"""The report of runs: which sections it has, and what each of them says."""

import json
from collections.abc import Sequence

from jaxcifar.report import layers, predictions, search, table, training, variants
from jaxcifar.report.charts import Chart, Details, Report, Section, Table
from jaxcifar.report.comparison import Group, accuracy_interval, groups, score
from jaxcifar.report.runs import Run

_MAX_EVALUATED = 4  # runs of which predictions are drawn
_MAX_LAYERED = 4  # runs of which layer statistics are drawn
_MAX_NAMED = 5
_MAX_STARTS = 3
_MAX_MANIFESTS = 50


def build(
    runs: Sequence[Run], problems: Sequence[str], searches: Sequence[search.Search] = ()
) -> Report:
    """Returns the report of runs.

    Args:
      runs: at least one.
      problems: what could not be read, a line each.
      searches: searches that the runs are trials of.
    """
    found = groups(runs)
    notes = list(problems)
    # The runs that stand for their group where each run has charts of its own.
    firsts = [group.runs[0] for group in found]
    sections = [
        _overview(found, runs),
        Section("Training", [], training.charts(found)),
        _variants(found),
        *map(search.section, searches),
        *_predictions(runs, firsts, notes),
        *_layers(firsts, notes),
        _runs(runs),
    ]
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    shown = [section for section in sections if section.items or section.text]
    return Report(f"Report on {title}", [group.name for group in found], notes, shown)


def _overview(found: Sequence[Group], runs: Sequence[Run]) -> Section:
    text = []
    name = score(found)
    if name:
        ordered = sorted(
            (group for group in found if group.figure(name)),
            key=lambda group: -accuracy_interval(group.figure(name)).mean,
        )
        best = ordered[0]
        mean = accuracy_interval(best.figure(name))
        spread = (
            "" if mean.low == mean.high else f" (95 % interval {mean.low:.2%} to {mean.high:.2%})"
        )
        of = (
            f"the best of {len(ordered)} configs, {best.name}, has" if len(ordered) > 1 else "it is"
        )
        text.append(f"{name.capitalize()}: {of} {mean.mean:.2%}{spread}.")
    running = [run.name for run in runs if not run.finished]
    if running:
        text.append(f"{len(running)} of {len(runs)} runs have not finished.")
    header, *rows = table.cells(found)
    items: list[Chart | Table | Details] = [Table("", header, rows)]
    if differing := variants.config_table(found):
        items.append(differing)
    return Section("Overview", text, items)


def _variants(found: Sequence[Group]) -> Section:
    name = score(found)
    finished = [group for group in found if group.runs[0].finished]
    items, text = variants.comparison(finished, name) if name else ([], [])
    all_items: list[Chart | Table | Details] = [*items]
    if parallel := variants.parallel_coordinates(finished, name):
        all_items.append(parallel)
    return Section("Configs compared", text, all_items)


def _predictions(runs: Sequence[Run], firsts: Sequence[Run], notes: list[str]) -> list[Section]:
    evaluated = [run for run in runs if run.evaluation]
    without = [run for run in runs if run.finished and not run.evaluation]
    if without:
        notes.append(
            f"{_named(without)}: no evaluation.json, so predictions are not drawn; "
            f"`jaxcifar eval {without[0].workdir}` writes it"
        )
    chosen = [run for run in firsts if run.evaluation] or evaluated
    if len(chosen) > _MAX_EVALUATED:
        notes.append(f"predictions are drawn for the first {_MAX_EVALUATED} configs")
    images = predictions.Images()
    sections: list[Section] = []
    for run in chosen[:_MAX_EVALUATED]:
        results = predictions.charts(run, images)
        notes += results.notes
        sections.append(
            Section(f"Predictions of {run.name}", results.text, results.charts, bool(sections))
        )
    return sections


def _layers(firsts: Sequence[Run], notes: list[str]) -> list[Section]:
    chosen = [run for run in firsts if run.layers]
    if len(chosen) > _MAX_LAYERED:
        notes.append(f"layer statistics are drawn for the first {_MAX_LAYERED} configs")
    return [
        Section(f"Layers of {run.name}", [], layers.charts(run), number > 0)
        for number, run in enumerate(chosen[:_MAX_LAYERED])
    ]


def _runs(runs: Sequence[Run]) -> Section:
    """The manifest of each run, and the config of the first, from which others differ as listed."""
    config = json.dumps(runs[0].manifest.get("config", {}), indent=1)
    items = [Details(f"Config of {runs[0].name}", config)]
    for run in runs[:_MAX_MANIFESTS]:
        entries = {name: value for name, value in run.manifest.items() if name != "config"}
        starts = entries.get("starts", [])
        if len(starts) > _MAX_STARTS:
            entries["starts"] = [f"{len(starts) - _MAX_STARTS} earlier", *starts[-_MAX_STARTS:]]
        items.append(Details(f"Manifest of {run.name}", json.dumps(entries, indent=1)))
    return Section("Manifests", [], items, is_folded=True)


def _named(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs[:_MAX_NAMED]]
    more = f" and {len(runs) - _MAX_NAMED} more" if len(runs) > _MAX_NAMED else ""
    return ", ".join(names) + more
