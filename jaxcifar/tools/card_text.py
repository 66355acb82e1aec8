"""The text of a model card, in Markdown."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

_MANY_CLASSES = 20


def markdown(facts: Mapping[str, Any]) -> str:
    """Returns the card of what `card.collect` has found."""
    parts = [
        f"# {facts['model']} on {facts['data']['name']}",
        _summary(facts),
        "## Training",
        _training(facts),
        *_evaluation(facts),
        "## Size and speed",
        _speed(facts),
        "## Limits",
        _limits(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(facts: Mapping[str, Any]) -> str:
    height, width, channels = facts["image_shape"]
    classes = len(facts["class_names"])
    text = (
        f"A classifier of images of {height}x{width} pixels and {channels} "
        f"{'channels' if channels > 1 else 'channel'} into {classes} classes, at step "
        f"{facts['step']:,}."
    )
    if "test" in facts:
        low, high = facts["test"]["interval"]
        text += (
            f" It has **{facts['test']['accuracy']:.2%}** accuracy on {facts['test']['images']:,} "
            f"test images (95 % interval {low:.2%} to {high:.2%})."
        )
    return text


def _training(facts: Mapping[str, Any]) -> str:
    training, recipe = facts["training"], facts["recipe"]
    hardware = training["hardware"]
    rows = [
        ("code", f"jaxcifar {training['versions'].get('jaxcifar', '')}, commit {recipe['commit']}"),
        ("recipe", f"SHA-256 {recipe['sha256']}"),
        ("hardware", f"{', '.join(hardware['devices'])}; {hardware['processor']}, "
                     f"{hardware['cores']} cores"),
        ("versions", ", ".join(f"{k} {v}" for k, v in training["versions"].items())),
        ("time", _time(training)),
        ("speed", _or_missing(training["images_per_second"], "{:,.0f} images/s")),
        *((f"{split} data", f"SHA-256 {print}") for split, print in
          facts["data"]["fingerprints"].items()),
    ]  # fmt: skip
    fields = [f"- `{name}`: {value}" for name, value in recipe["fields"].items()]
    return "\n".join(
        [*_table(("", ""), rows), "", "What the recipe sets, beyond the defaults:", "", *fields]
    )


def _time(training: Mapping[str, Any]) -> str:
    if training["last_row"] is None:
        return "not recorded"
    first, last = (datetime.fromisoformat(training[key]) for key in ("first_start", "last_row"))
    minutes = (last - first).total_seconds() / 60
    starts = f", with {training['starts']} starts and the time between" * (training["starts"] > 1)
    return f"{minutes:.1f} minutes{starts}"


def _evaluation(facts: Mapping[str, Any]) -> list[str]:
    if "test" not in facts:
        return ["## Evaluation", f"Not evaluated: {facts['not_evaluated']}"]
    test, train = facts["test"], facts["train"]
    gap = train["accuracy"] - test["accuracy"]
    overall = [
        ("test images", f"{test['accuracy']:.2%}"),
        (f"{train['images']:,} training images, without augmentation", f"{train['accuracy']:.2%}"),
        ("difference", f"{100 * gap:+.2f} percentage points"),
    ]
    if "top5_accuracy" in test:
        overall.insert(1, ("test images, label among the top 5", f"{test['top5_accuracy']:.2%}"))
    confused = [
        f"{pair['label']} as {pair['prediction']} ({pair['share']:.1%})"
        for pair in test["confused"]
    ]
    return [
        "## Accuracy",
        "\n".join(_table(("images", "accuracy"), overall)),
        _per_class(test["per_class"]),
        f"Most frequent mistakes: {', '.join(confused) or 'none'}.",
        "## Calibration",
        _calibration(facts["calibration"]),
        "## Robustness",
        _robustness(facts["robustness"]),
    ]


def _per_class(accuracies: Mapping[str, float | None]) -> str:
    found = sorted((value, name) for name, value in accuracies.items() if value is not None)
    if len(accuracies) > _MANY_CLASSES:
        lowest = ", ".join(f"{name} {value:.1%}" for value, name in found[:5])
        highest = ", ".join(f"{name} {value:.1%}" for value, name in found[:-6:-1])
        return f"Classes with the lowest accuracy: {lowest}; with the highest: {highest}."
    rows = [(name, _or_missing(value, "{:.1%}")) for name, value in accuracies.items()]
    return "\n".join(_table(("class", "accuracy"), rows))


def _calibration(calibration: Mapping[str, Any]) -> str:
    return (
        f"The expected calibration error is {calibration['before']:.1%}. Dividing the logits by a "
        f"temperature of {calibration['temperature']:.2f} makes it {calibration['after']:.1%} "
        f"(fitted to {calibration['fitted_to']}; Guo et al. 2017)."
    )


def _robustness(robustness: Mapping[str, Any]) -> str:
    groups: defaultdict[str, list[float]] = defaultdict(list)
    rows = []
    for name, kind in robustness["kinds"].items():
        values = list(kind["accuracy"].values())
        groups[kind["group"]] += values
        rows.append((name.replace("_", " "), kind["group"], *(f"{v:.1%}" for v in values)))
    strengths = next(iter(robustness["kinds"].values()))["accuracy"]
    table = _table(("corruption", "group", *(f"strength {s}" for s in strengths)), rows)
    means = ", ".join(f"{group} {np.mean(values):.1%}" for group, values in groups.items())
    overall = np.mean([value for values in groups.values() for value in values])
    return "\n".join([
        f"Accuracy on {robustness['images']:,} test images, corrupted after Hendrycks and "
        f"Dietterich 2019; uncorrupted it is {robustness['clean']:.1%}.",
        "",
        *table,
        "",
        f"Mean {overall:.1%}; by group: {means}.",
    ])  # fmt: skip


def _speed(facts: Mapping[str, Any]) -> str:
    rows = []
    for name, speed in facts["speed"].items():
        if "missing" in speed:
            rows.append((name, "not measured", speed["missing"]))
            continue
        rows.append((
            name,
            f"{speed['latency_ms']:.2f} ms ({speed['latency_ms_p90']:.2f} ms)",
            f"{speed['images_per_second']:,.0f} ({speed['images_per_second_p10']:,.0f})",
        ))  # fmt: skip
    machine = facts["machine"]
    sizes = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in facts["file_bytes"].items())
    return "\n".join([
        f"- {facts['parameters']:,} parameters, {facts['multiply_adds'] / 1e6:,.1f} million "
        "multiply-adds per image and view",
        f"- files: {sizes}",
        f"- peak memory of a process that predicts batches of 256: "
        f"{facts['peak_memory_bytes'] / 2**30:.2f} GiB",
        "",
        f"Medians on {machine['processor']}, {machine['cores']} cores "
        f"({', '.join(machine['devices'])}); in parentheses, the 90th percentile of the calls:",
        "",
        *_table(("program", "one image", "images/s in batches of 256"), rows),
    ])  # fmt: skip


def _limits(facts: Mapping[str, Any]) -> str:
    height, width, _ = facts["image_shape"]
    lines = [
        f"It always answers with one of its {len(facts['class_names'])} classes, whatever an image "
        "shows.",
        f"Images are resized to {height}x{width} pixels; finer details are lost.",
        "Test images are of the same source as those it was trained on. On images from elsewhere "
        "its accuracy is not known; `jaxcifar eval RUN --on` measures it.",
    ]
    if "robustness" in facts:
        worst = min(
            (value, name, strength)
            for name, kind in facts["robustness"]["kinds"].items()
            for strength, value in kind["accuracy"].items()
        )
        lines.append(
            f"Of the corruptions above it suffers most from {worst[1].replace('_', ' ')} of "
            f"strength {worst[2]}: {worst[0]:.1%}."
        )
    if "calibration" in facts and facts["calibration"]["before"] > 0.05:
        lines.append(
            "Its probabilities are poorly calibrated: scale them by the temperature above."
        )
    lines.append("One run was measured: another seed gives another network.")
    return "\n".join(f"- {line}" for line in lines)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _or_missing(value: float | None, format: str) -> str:
    return "not recorded" if value is None else format.format(value)
