import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import REPOSITORY, USERS_XLA_FLAGS


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "scripts" / "benchmark")
    return importlib.import_module("benchmark")


@pytest.fixture
def report(benchmark):
    return importlib.import_module("benchmark_report")


def numbers(value):
    """All numbers in a JSON value."""
    if isinstance(value, dict | list):
        values = value.values() if isinstance(value, dict) else value
        return [number for inner in values for number in numbers(inner)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.parametrize(
    "tasks",
    [
        ["fixed", "device", "many"],
        pytest.param(["fixed", "device", "many", "evaluation", "matrix"], marks=pytest.mark.slow),
    ],
    ids=["training", "more"],
)
def test_a_small_run_without_the_peers_interpreter(tasks, tmp_path):
    done = subprocess.run(
        [
            *(
                sys.executable,
                REPOSITORY / "scripts" / "benchmark" / "benchmark.py",
                "--models",
                "resnet8@8",
            ),
            *("--rounds=2", "--seconds=0.05", "--steps=2", "--steps_per_call=2"),
            *("--eval_images=16", f"--out={tmp_path}", "--tasks", *tasks),
            *("--peer=torch", f"--peer_python={tmp_path}/python"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": USERS_XLA_FLAGS, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "benchmark.json").read_text())
    (result,) = measured["results"]
    assert set(result["rates"]) == {"jaxcifar"}
    assert {
        task: len(rounds) for task, rounds in result["rates"]["jaxcifar"].items()
    } == dict.fromkeys(tasks, 2)
    assert measured["finished"]
    assert result["parameters"] == 75_290 and result["steps_per_epoch"] == 6250
    fields = ("rates", "starts", "memory", "comparisons", "peak_share")
    values = numbers([result[field] for field in fields])
    assert len(values) > 20 and all(math.isfinite(value) and value > 0 for value in values)
    for kind, seconds in result["compile_seconds"]["jaxcifar"].items():
        assert 0 <= seconds < result["starts"]["jaxcifar"][kind]["seconds"]

    text = (tmp_path / "benchmark.md").read_text()
    assert done.stdout.strip() == text.strip()
    assert "jax " in text and "random images" in text
    rows = [line for line in text.splitlines() if line.startswith("| resnet8@8 float32 |")]
    assert len([row for row in rows if "| jaxcifar |" in row]) == 2  # speed; start and memory
    assert any("many steps per call / one" in row and "at least 0.9" in row for row in rows)
    for side in ("eager", "compiled"):
        assert f"PyTorch {side}: {tmp_path}/python: No such file or directory" in text


def test_a_peer_that_cannot_start_says_why(benchmark, tmp_path):
    script = tmp_path / "torch.py"
    script.write_text("import no_such_module\n")
    command = [sys.executable, str(script)]
    with benchmark.Child(command, dict(os.environ)) as child:
        with pytest.raises(benchmark.ChildError, match="No module named 'no_such_module'"):
            child.ask("prepare")


def test_a_benchmark_resumes_only_an_interrupted_one_of_the_same_kind(benchmark, tmp_path):
    args = benchmark.parse(["--models", "resnet8@8", "--out", str(tmp_path)])
    report = {
        **{"commit": "abc", "versions": {"jax": "0.10"}, "environment": {}, "data": "random"},
        **{"hardware": {"host": "one", "cores": 2}, "arguments": {**vars(args), "out": "."}},
    }
    results = [{"model": "resnet8", "rates": {"jaxcifar": {}}}, {"model": "resnet20", "rates": {}}]
    path = tmp_path / "benchmark.json"
    assert benchmark.unfinished(path, report) == []

    def kept(finished=False, **changes):
        path.write_text(json.dumps(report | {"finished": finished, "results": results}))
        return benchmark.unfinished(path, report | changes)

    assert kept() == results[:1]
    assert kept(hardware={"host": "another", "cores": 2}) == results[:1]
    assert kept(arguments=report["arguments"] | {"models": [("resnet20", 8)]}) == results[:1]
    assert kept(finished=True) == []
    assert kept(commit="def") == []
    assert kept(hardware={"host": "one", "cores": 4}) == []
    assert kept(arguments=report["arguments"] | {"rounds": 7}) == []


def test_a_childs_error_leaves_it_alive(benchmark, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    request = json.loads(line)\n"
        "    answer = {'error': 'Why'} if request['do'] == 'fail' else {'sum': sum(request['x'])}\n"
        "    print(json.dumps(answer), flush=True)\n"
    )
    with benchmark.Child([sys.executable, str(script)], dict(os.environ)) as child:
        with pytest.raises(benchmark.ChildError, match="^Why$"):
            child.ask("fail")
        assert child.ask("add", x=[1, 2]) == {"sum": 3}


RESULT = {
    **{"model": "resnet20", "batch_size": 128, "precision": "float32", "epoch_task": "device"},
    **{"parameters": 269_722, "macs": 1000, "compile_mode": "default", "notes": []},
    "rates": {
        "jaxcifar": {
            "fixed": [100.0, 120.0, 128.0],
            "device": [80.0, 120.0, 100.0],
            "many": [80.0, 96.0, 70.0],
            "pipeline": [19_000.0, 21_000.0, 20_500.0],
            "matrix": [1e6, 3.84e6, 2e6],
        },
        "PyTorch eager": {"fixed": [50.0, 60.0, 40.0], "device": [100.0, 80.0, 100.0]},
    },
    "starts": {
        "jaxcifar": {
            "cold": {"seconds": 30.0, "first_call_seconds": 21.0},
            "warm": {"seconds": 8.0, "first_call_seconds": 1.0},
        },
        "PyTorch eager": {"cold": {"seconds": 10.0, "first_call_seconds": 2.0}},
        "PyTorch compiled": {"cold": {"seconds": 40.0, "first_call_seconds": 35.0}},
    },
    "memory": {"jaxcifar": 3.0, "PyTorch eager": 2.0},
}


def test_a_ratio_is_the_median_of_the_rounds_ratios(report):
    """The median of ratios, here 1.25, is not the ratio of medians, 120 / 100."""
    summary = report.summary(RESULT, "cpu")
    compared = summary["comparisons"]
    epoch = compared["augmented epoch / fixed batch, time per step"]
    assert epoch["rounds"] == [1.25, 1.0, 1.28] and epoch["median"] == 1.25
    assert (epoch["least"], epoch["greatest"]) == (1.0, 1.28)
    many = compared["many steps per call / one, images/s"]
    assert many["rounds"] == [1.0, 0.8, 0.7] and many["median"] == 0.8
    peer = compared["augmented epoch / PyTorch eager, images/s"]
    assert peer["rounds"] == [0.8, 1.5, 1.0] and peer["median"] == 1.0
    assert compared["train step / PyTorch eager, images/s"]["rounds"] == [2.0, 2.0, 3.2]
    assert compared["peak memory / PyTorch eager"]["rounds"] == [1.5]
    start = compared["warm start / cold start of PyTorch compiled, time to the first step"]
    assert start["rounds"] == [0.2]
    assert not any("evaluation" in name for name in compared)
    # 128 images at the median rate of 120 a second take 16/15 s.
    assert summary["compile_seconds"]["jaxcifar"]["cold"] == pytest.approx(21 - 16 / 15)
    assert summary["compile_seconds"]["jaxcifar"]["warm"] == 0
    # 3 * 2 * 1000 operations an image, of 3.84 million a second.
    assert summary["peak_share"]["jaxcifar"] == pytest.approx(6000 * 120 / 3.84e6)
    assert summary["peak_share"]["PyTorch eager"] == pytest.approx(6000 * 50 / 3.84e6)


def test_targets_are_those_of_the_backend_and_the_configuration(report):
    def met(backend, **changes):
        targets = report.summary({**RESULT, **changes}, backend)["targets"]
        return [(target["comparison"].split(",")[0], target["met"]) for target in targets]

    everywhere = [("tf.data alone", True), ("warm start / cold start of PyTorch compiled", True)]
    epoch, many = "augmented epoch / fixed batch", "many steps per call / one"
    eager = "augmented epoch / PyTorch eager"
    assert met("cpu") == [(epoch, False), (many, False), (eager, False), *everywhere]  # 1 < 1.3
    assert met("cpu", batch_size=32) == [(epoch, False), (many, False), *everywhere]
    assert met("cpu", model="resnet18", batch_size=32)[2] == (eager, False)
    peer = {"device": [60.0, 60.0, 60.0]}
    rates = {**RESULT["rates"], "PyTorch eager": peer}
    assert met("cpu", rates=rates)[2] == (eager, True)
    assert met("gpu") == [(epoch, False), (many, False), (many, False), (eager, False), *everywhere]
    faster = {"fixed": [1.0], "device": [1.0], "many": [1.9], "pipeline": [19_999.0]}
    assert met("gpu", rates={"jaxcifar": faster})[:4] == [
        *((epoch, True), (many, True), (many, False)),
        ("tf.data alone", False),
    ]


def test_the_command_line_and_what_the_backend_fills_in(benchmark):
    args = benchmark.parse(["--models", "resnet18@512", "densenet121@256"])
    benchmark.resolve(args, "gpu")
    assert args.models == [("resnet18", 512), ("densenet121", 256)]
    assert (args.precisions, args.steps_per_call) == (["bfloat16", "float32"], 100)
    args = benchmark.parse([])
    benchmark.resolve(args, "cpu")
    assert args.models[2] == ("resnet18", 32) and args.precisions == ["float32"]


def test_the_pytorch_benchmark_reports_its_rates(benchmark, tmp_path):
    """Needs PyTorch here, or in the interpreter that JAXCIFAR_TEST_TORCH names."""
    python = os.environ.get("JAXCIFAR_TEST_TORCH")
    if python is None and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed, and JAXCIFAR_TEST_TORCH names no interpreter")
    random = np.random.RandomState(0)
    np.savez(
        tmp_path / "data.npz",
        train_images=random.randint(0, 256, (20, 32, 32, 3), np.uint8),
        train_labels=random.randint(0, 10, 20, np.int32),
        test_images=random.randint(0, 256, (5, 32, 32, 3), np.uint8),
        test_labels=random.randint(0, 10, 5, np.int32),
    )
    with benchmark.start_peer(python or sys.executable, tmp_path) as child:
        request = {"model": "resnet8", "batch_size": 8, "data": str(tmp_path / "data.npz")}
        answer = benchmark.prepare(child, {**request, "precision": "float32", "mode": "eager"})
        assert answer["parameters"] == 75_290
        assert 0 < answer["start"]["first_call_seconds"] < answer["start"]["seconds"]
        for task, images in (("fixed", 24), ("device", 24), ("evaluation", 15)):
            answer = child.ask("run", task=task, steps=3)
            assert answer["count"] == images and answer["seconds"] > 0
        assert child.ask("memory")["GiB"] > 0.01
        with pytest.raises(benchmark.ChildError, match="no network 'alexnet'"):
            request["model"] = "alexnet"
            child.ask("prepare", **request, precision="float32", mode="eager")
