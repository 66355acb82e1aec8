"""The command lines of docs/scenarios.md."""

import re
import shlex

import pytest

from tests.helpers import REPOSITORY, read_metrics

PAGE = (REPOSITORY / "docs" / "scenarios.md").read_text()
# Below the 20 steps of a smoke run, so that what follows in the same workdir has steps to do.
SHORTER_STEPS = 12


def commands():
    """The commands of the page, as lists of words."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


def trainings():
    return [words[3:] for words in commands() if words[:3] == ["python", "-m", "jaxcifar.main"]]


def shortened(words, runs):
    """The same command for a few steps, with its directories elsewhere."""
    found = []
    for word in words:
        word = re.sub(r"^(configs/\w+\.py)(:\S+)?$", r"\1:smoke", word)
        word = re.sub(
            r"^--config.train.num_epochs=\d+$", f"--config.train.num_steps={SHORTER_STEPS}", word
        )
        word = re.sub(r"^--config.eval.*", "", word)
        found.append(re.sub(r"^runs\b", str(runs), word))
    if found[:1] == ["--config"] and "--workdir" not in found:
        found += ["--workdir", f"{runs}/unnamed"]
    return [word for word in found if word]


def test_the_page_has_the_scenarios():
    assert len(trainings()) == 15
    assert {words[0] for words in commands()} == {"python", "jaxcifar", "tensorboard"}


@pytest.mark.parametrize("words", trainings(), ids=" ".join)
def test_each_config_is_valid(words, run_command):
    kept = [word for word in words if word != "--accept_config_change"]
    code, out, err, _ = run_command("jaxcifar", "sweep", *kept, "--dry_run")
    assert code == 0 and "jaxcifar.main" in out, err


def test_the_ablations_are_listed_and_can_be_shown(run_command):
    sweeps = [words[1:] for words in commands() if words[:2] == ["jaxcifar", "sweep"]]
    assert len(sweeps) == 4
    for words in sweeps:
        shown = words if {"--list", "--dry_run"} & set(words) else [*words, "--dry_run"]
        code, out, err, _ = run_command("jaxcifar", *shown)
        assert code == 0 and not err
        assert "no_batch_norm" in out


@pytest.mark.slow
def test_each_command_runs_at_smoke_length(run_command, tmp_path):
    for words in commands():
        if words[0] == "tensorboard":
            continue
        words = shortened(words, tmp_path / "runs")
        program = words[2:3] if words[0] == "python" else ["jaxcifar"]
        rest = words[3:] if words[0] == "python" else words[1:]
        if "sweep" in rest and "--only" not in rest and "--list" not in rest:
            rest += ["--dry_run"]  # all variants take long
        if "sweep" in rest and "--only" in rest:
            rest += ["--workdir", tmp_path / "runs" / "ablations_sweep"]
        if "watch" in rest and "--once" not in rest:
            rest += ["--once"]
        code, out, err, _ = run_command(*program, *rest)
        assert code == 0, (words, out, err)
    runs = tmp_path / "runs"
    assert (runs / "compared.html").exists() and (runs / "report.html").exists()
    steps = [int(row["step"]) for row in read_metrics(runs / "longer")]
    assert SHORTER_STEPS in steps and steps[-1] == 20
    assert (runs / "ablations_sweep" / "no_batch_norm" / "manifest.json").exists()
