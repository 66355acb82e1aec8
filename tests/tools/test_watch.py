"""The display of all runs in a directory."""

import json
import shutil

import pytest


@pytest.fixture(scope="module")
def watch(run_command):
    """Runs `jaxcifar watch`; returns exit code, stdout and stderr."""
    return lambda *arguments: run_command("jaxcifar", "watch", *arguments)[:3]


def test_each_run_has_a_line(watch, whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "a" / "finished")
    shutil.copytree(whole_run, tmp_path / "a" / "stopped")
    shutil.copytree(whole_run, tmp_path / "b")
    stopped = tmp_path / "a" / "stopped"
    run = json.loads((stopped / "manifest.json").read_text())
    del run["end"]
    (stopped / "manifest.json").write_text(json.dumps(run))
    lines = (stopped / "metrics.csv").read_text().splitlines(keepends=True)
    (stopped / "metrics.csv").write_text("".join(lines[: len(lines) // 2]) + "45,2.")
    (tmp_path / "b" / "manifest.json").write_text('{"config": ')

    code, out, err = watch(tmp_path, "--once")
    assert code == 0 and not err
    shown = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert "finished" in shown["a/finished"] and "(100%)" in shown["a/finished"]
    whole = json.loads((whole_run / "manifest.json").read_text())
    accuracy = whole["end"]["metrics"]["validation"]["accuracy"]
    assert f"validation {accuracy:.2%}" in shown["a/finished"]
    assert "stopped" in shown["a/stopped"] and "▁" in shown["a/stopped"]
    assert "unreadable" in shown["b"]


def test_mistakes_are_explained(watch, tmp_path):
    for arguments, message in (
        ((tmp_path / "none",), "none: no such directory"),
        ((tmp_path,), "no runs (no directory with manifest.json)"),
        ((tmp_path, "--interval=0"), "--interval=0"),
    ):
        code, out, err = watch(*arguments)
        assert code == 1 and not out and message in err


def test_the_report_is_written_beside_the_table(watch, whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "runs" / "a")
    out = tmp_path / "report.html"
    code, shown, err = watch(tmp_path / "runs", "--html", out)  # ends, as the run has finished
    assert code == 0 and not err and "finished" in shown
    text = out.read_text()
    assert "Report on a" in text and 'http-equiv="refresh"' not in text
    code, _, err = watch(tmp_path / "runs", "--html", tmp_path / "report.pdf")
    assert code == 1 and "the file name must end in .html" in err


def test_a_page_of_running_runs_reads_itself_again(whole_run, tmp_path):
    from jaxcifar.tools.watch import write_report

    shutil.copytree(whole_run, tmp_path / "a")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "manifest.json").write_text("{}")
    write_report([tmp_path, tmp_path / "begun"], tmp_path / "report.html", refreshed=True)
    assert '<meta http-equiv="refresh" content="60">' in (tmp_path / "report.html").read_text()
