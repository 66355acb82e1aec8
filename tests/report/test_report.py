"""What a report shows, and what it says of files that it cannot read."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxcifar.report import png, runs
from jaxcifar.report.build import build
from jaxcifar.report.charts import Heatmap, Intervals, Lines, Parallel, Pictures, Reliability
from jaxcifar.report.page import page
from tests.report.conftest import EPOCHS, LAYERS, RATES


@pytest.fixture(scope="module")
def report(sweep_of_runs):
    return build(*runs.find([sweep_of_runs]))


def charts_of(report, kind):
    return {chart.title: chart for _, chart in report.charts() if isinstance(chart, kind)}


def test_curves_are_means_of_seeds_with_their_deviation(report):
    lines = charts_of(report, Lines)
    assert list(lines) == [
        "Loss, train",
        "Loss, test",
        "Accuracy, train",
        "Accuracy, test",
        "Learning rate",
        "Images/s",
    ]
    test = lines["Accuracy, test"]
    means = [line for line in test.lines if not line.member]
    assert [line.group for line in means] == [0, 1, 2]
    epochs = np.arange(1, EPOCHS + 1)
    expected = 1 - 0.5 / epochs - 0.005 - 0.05 * RATES[1]
    assert np.allclose(means[1].y, expected)
    assert np.allclose(means[1].spread, 0.01 / np.sqrt(2))  # of two values that are 0.01 apart
    assert np.allclose(means[1].x["minutes"], epochs) and np.allclose(means[1].x["epoch"], epochs)
    assert len([line for line in test.lines if line.member]) == 6


def test_configs_are_compared_with_the_first(report):
    charts = charts_of(report, Intervals)
    scores = charts["Test accuracy by config"]
    assert list(scores.names) == ["rate0.1", "rate0.2", "rate0.4"]  # the best first
    gaps = charts["Difference to rate0.1"]
    assert np.allclose(gaps.values, [-0.005, -0.015])
    (parallel,) = charts_of(report, Parallel).values()
    assert [dimension.label for dimension in parallel.dimensions] == [
        "learning_rate",
        "test accuracy, %",
    ]


def test_predictions_are_those_of_the_files(report, sweep_of_runs):
    workdir = sweep_of_runs / "rate0.1" / "seed_0"
    with np.load(workdir / "predictions.npz") as file:
        logits, labels = file["test_logits"], file["test_labels"]
    predicted = logits.argmax(axis=1)
    section = next(s for s in report.sections if s.title == "Predictions of rate0.1/seed_0")
    confusion, classes, reliability, mistakes, uncertain = section.items
    assert isinstance(confusion, Heatmap) and np.isnan(confusion.values.diagonal()).all()
    threes = predicted[labels == 3]
    assert np.isclose(confusion.values[3, 5], 100 * np.mean(threes == 5))
    assert isinstance(classes, Intervals)
    accuracy = dict(zip(classes.names, classes.values, strict=True))
    assert np.isclose(accuracy["3"], np.mean(threes == 3))
    assert isinstance(reliability, Reliability) and reliability.counts.sum() == len(labels)
    assert f"{np.mean(predicted == labels):.2%}" in section.text[0]
    assert isinstance(mistakes, Pictures) and isinstance(uncertain, Pictures)
    wrong = np.flatnonzero(predicted != labels)
    shifted = logits - logits.max(axis=1, keepdims=True)
    confidence = 1 / np.exp(shifted).sum(axis=1)
    worst = wrong[confidence[wrong].argmax()]
    assert mistakes.captions[0][2] == f"no. {worst}"
    assert mistakes.captions[0][0].startswith(f"{predicted[worst]} {confidence[worst]:.1%}")


def test_layers_are_in_the_order_of_the_network(report):
    chart = charts_of(report, Heatmap)["Gradient norm"]
    assert list(chart.y) == ["conv", "stage1_block1/conv1", "head"]
    assert chart.values.shape == (3, 9)
    head = 10.0 ** -(1 + LAYERS.index("head"))
    assert np.allclose(chart.values[2], head / np.arange(5, 50, 5))


def test_the_page_is_one_file_of_valid_data(report):
    text = page(report)
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"'](?!data:)", text)
    data = json.loads(re.search(r'id="report">(.*?)</script>', text, re.DOTALL)[1])
    assert len(data["charts"]) == sum(not isinstance(c, Pictures) for _, c in report.charts())
    assert text.count("data-chart=") == len(data["charts"])
    assert len(text.encode()) < 6e6


def test_fifty_runs_make_a_page_below_six_megabytes(sweep_of_runs, tmp_path):
    source = sweep_of_runs / "rate0.1" / "seed_0"
    header, *_ = (source / "metrics.csv").read_text().splitlines()
    columns = header.split(",")
    random = np.random.RandomState(0)
    for number in range(50):
        workdir = tmp_path / f"variant{number // 5}" / f"seed_{number % 5}"
        shutil.copytree(source, workdir)
        run = json.loads((source / "manifest.json").read_text())
        run["config"]["train"]["seed"] = number % 5
        run["config"]["optimizer"]["learning_rate"] = 0.01 * (1 + number // 5)
        (workdir / "manifest.json").write_text(json.dumps(run))
        lines = [header]
        for epoch in range(1, 201):
            for split in "train", "test":
                row = dict.fromkeys(columns, "")
                row |= {"step": 390 * epoch, "epoch": epoch, "split": split}
                row |= {name: f"{random.rand():.7g}" for name in ("loss", "accuracy")}
                seconds = 10 * epoch + random.rand()
                row["time"] = f"2026-01-01T00:{int(seconds // 60):02}:{seconds % 60:09.6f}+00:00"
                if split == "train":
                    row |= {"learning_rate": 0.1, "images_per_second": f"{random.rand():.7g}"}
                lines.append(",".join(str(row[name]) for name in columns))
        (workdir / "metrics.csv").write_text("\n".join(lines) + "\n")
    found, problems = runs.find([tmp_path])
    assert len(found) == 50 and not problems
    # Below the limit by what 80 colour images of noise take, which digits do not.
    assert len(page(build(found, problems)).encode()) < 6e6 - 80 * 4200


def test_names_cannot_break_out_of_the_page(sweep_of_runs, tmp_path):
    evil = "<script>alert(1)</script>"
    shutil.copytree(sweep_of_runs / "rate0.1", tmp_path / evil.replace("/", "_"))
    shutil.copytree(sweep_of_runs / "rate0.2", tmp_path / "b")
    text = page(build(*runs.find([tmp_path])))
    assert "alert(1)" in text and "<script>alert" not in text


def test_each_figure_is_drawn_for_print(report, tmp_path, monkeypatch):
    monkeypatch.setattr(png, "_DPI", 100)  # in a third of the time
    paths = png.write(report, tmp_path / "figures")
    assert len(paths) == len(set(paths)) == len(report.charts())
    for path in paths:
        with Image.open(path) as image:
            assert image.width > 250
            colours = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
        assert len(colours) > 20, path


def test_what_cannot_be_read_is_said_and_the_rest_is_drawn(sweep_of_runs, tmp_path):
    shutil.copytree(sweep_of_runs, tmp_path, dirs_exist_ok=True)
    other, cut, begun, bare, damaged, layers = (
        tmp_path / f"rate{rate}" / f"seed_{seed}" for rate in RATES for seed in (0, 1)
    )
    run = json.loads((other / "manifest.json").read_text())
    run["config"]["train"]["of_another_version"] = 1
    (other / "manifest.json").write_text(json.dumps(run))
    with (cut / "metrics.csv").open("a") as file:
        file.write("140,7.0,te")
    (begun / "metrics.csv").write_text("")
    for name in "evaluation.json", "predictions.npz":
        (bare / name).unlink()
    (damaged / "evaluation.json").write_text('{"step": ')
    (layers / "layers.csv").write_text("what\nis this\n")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "metrics.csv").touch()
    (broken / "manifest.json").write_text("{")

    report = build(*runs.find([tmp_path]))
    notes = "\n".join(report.notes)
    for line in (
        f"{begun}: no rows in metrics.csv yet",
        "rate0.2/seed_1",
        "no evaluation.json",
        f"{damaged}/evaluation.json: cannot be read",
        f"{layers}/layers.csv: cannot be read",
        f"{broken}/manifest.json: not a valid manifest",
    ):
        assert line in notes
    assert all(len(note) < 300 and "\n" not in note for note in report.notes)
    (test,) = (c for c in charts_of(report, Lines).values() if c.title == "Accuracy, test")
    assert sum(not line.member for line in test.lines) == 4  # of another version: its own config
    assert "Confusion matrix" in charts_of(report, Heatmap)
    page(report)


def test_ternary_shares_and_single_runs_have_charts(sweep_of_runs, tmp_path):
    shutil.copytree(sweep_of_runs / "rate0.1" / "seed_0", tmp_path / "run")
    header, *rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    columns = header.split(",")
    for epoch, zero in (1, 0.5), (2, 0.4):
        row = dict.fromkeys(columns, "") | {"step": 20 * epoch, "epoch": epoch, "split": "weights"}
        row |= {"negative": 0.2, "zero": zero, "positive": round(0.8 - zero, 7)}
        row["time"] = "2026-01-01T00:07:00+00:00"
        rows.append(",".join(str(row[name]) for name in columns))
    (tmp_path / "run" / "metrics.csv").write_text("\n".join([header, *rows]) + "\n")
    lines = charts_of(build(*runs.find([tmp_path])), Lines)
    assert list(lines) == ["Loss", "Accuracy", "Learning rate", "Images/s", "Ternary weights"]
    assert [line.label for line in lines["Loss"].lines] == ["train", "test"]
    assert {line.style for line in lines["Loss"].lines} == {0, 1}
    shares = {line.label.split()[-1]: line.y.tolist() for line in lines["Ternary weights"].lines}
    assert shares == {"-1": [0.2, 0.2], "0": [0.5, 0.4], "1": [0.3, 0.4]}


def test_pauses_do_not_count_as_training():
    rows = [
        {"step": str(10 * n), "epoch": str(n), "split": "train", "loss": "1", "time": time}
        for n, time in enumerate(
            ["2026-01-01T00:01:00+00:00", "2026-01-01T00:02:00+00:00", "2026-01-01T05:00:30+00:00"]
        )
    ]
    starts = ["2026-01-01T00:00:00+00:00", "2026-01-01T05:00:00+00:00"]
    times = runs._times([{"time": time} for time in starts])
    assert runs._curves(rows, times)["train"].minutes.tolist() == [1, 2, 2.5]


def test_the_command_writes_page_and_figures(run_command, sweep_of_runs, tmp_path):
    out, figures = tmp_path / "deep" / "report.html", tmp_path / "png"
    done = run_command("jaxcifar", "report", sweep_of_runs, "--out", out, "--png", figures)
    assert done[0] == 0, done
    assert f"written: {out}" in done[1] and out.read_text().startswith("<!doctype html>")
    assert len(list(figures.glob("*.png"))) > 10
    code, _, err, _ = run_command("jaxcifar", "report", sweep_of_runs, "--out", "report.txt")
    assert code == 1 and "--out=report.txt: the file name must end in .html" in err
