"""Measures training, evaluation, input pipelines, start-up and memory, optionally beside PyTorch.

    python scripts/benchmark/benchmark.py
    python scripts/benchmark/benchmark.py --models resnet18@512 --precisions bfloat16 \\
        --peer torch --peer_python ~/torch/bin/python

Prints a report in Markdown and saves it with all measurements as benchmark.md and benchmark.json.
Rerun the same command to resume an interrupted benchmark; configurations that were measured are
kept.

Every configuration runs in its own processes: jaxcifar in jax_benchmark.py, and PyTorch, eager and
compiled, in torch_benchmark.py. They take turns, round by round, while the others idle; a ratio is
the median of the ratios of the rounds. The images are random, 50,000 and 10,000 of CIFAR's shape,
unless --data_dir names the real ones. jaxcifar's processes use the settings of
`jaxcifar.environment`; environment variables apply to PyTorch's as well.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from benchmark_report import COMPILED, EAGER, OURS, Result, markdown, summary

from jaxcifar import environment
from jaxcifar.config import default
from jaxcifar.data import datasets
from jaxcifar.data.split import Split
from jaxcifar.resilience.files import write_json

_HERE = Path(__file__).resolve().parent
# What is measured before the memory is read, and after it.
_TRAINING, _OTHERS = ("fixed", "device", "many"), ("evaluation", "tf", "pipeline", "matrix")
_TASKS = {
    OURS: _TRAINING + _OTHERS,
    EAGER: ("fixed", "device", "evaluation"),
    COMPILED: ("fixed", "device"),
}
_DEFAULTS = {
    "gpu": (
        "resnet20@128 resnet20@512 resnet56@128 resnet56@512 resnet110@128 resnet110@512 "
        "resnet18@512 densenet121@256 densenet_bc_100_12@64 densenet_bc_100_12@256",
        "bfloat16 float32",
    ),
    "cpu": ("speedrun94@512 resnet20@128 resnet18@32 densenet_bc_100_12@64", "float32"),
}


class ChildError(Exception):
    """A child process failed; the message is one line."""


class Child:
    """A measuring process; a context manager that ends it."""

    def __init__(self, command: list[str], environment: dict[str, str]):
        """Starts the process; raises a ChildError if there is no such program."""
        self.started = time.perf_counter()
        self._errors = tempfile.TemporaryFile("w+")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        try:
            self._process = subprocess.Popen(command, env=environment, text=True, **pipes)
        except OSError as error:
            self._errors.close()
            raise ChildError(f"{command[0]}: {error.strerror}") from error

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def ask(self, do: str, **arguments: Any) -> dict:
        """Returns the answer; raises a ChildError if it is an error or the process has ended."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines()
            raise ChildError(said[-1] if said else f"ended with code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ChildError(answer["error"])
        return answer


class Case(NamedTuple):
    """The configuration that is measured."""

    model: str
    batch_size: int
    precision: str


def start_ours(cache: Path) -> Child:
    """Starts jaxcifar's side with the settings of its entry points and this compilation cache."""
    variables = {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5",  # leaves room for the peer
        **os.environ,
        **environment.cpu_settings(os.environ),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
    }
    return Child([sys.executable, str(_HERE / "jax_benchmark.py")], variables)


def start_peer(python: str, cache: Path) -> Child:
    """Starts PyTorch's side, with this cache of compiled programs."""
    caches = {name: str(cache / name) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
    return Child([python, str(_HERE / "torch_benchmark.py")], {**os.environ, **caches})


def measure(case: Case, args: argparse.Namespace, data: Path) -> Result:
    """Measures one configuration on all sides; see `benchmark_report.Result`.

    Args:
      case: configuration to measure.
      args: command line, see `resolve`.
      data: archive written by `write_data`.
    """
    result: Result = {**case._asdict(), "rates": {}, "starts": {}, "memory": {}, "notes": []}
    result["epoch_task"] = "many" if args.backend == "gpu" else "device"  # as training has it
    request = {**case._asdict(), "data": str(data)}
    with contextlib.ExitStack() as stack:
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        children: dict[str, Child] = {}
        try:
            ours = {**request, "steps_per_call": args.steps_per_call}
            with start_ours(cache) as child:
                cold = prepare(child, ours)
            child = stack.enter_context(start_ours(cache))
            warm = prepare(child, ours)
        except ChildError as error:
            result["notes"].append(f"{OURS}: {error}")
            return result
        children[OURS] = child
        result["starts"][OURS] = {"cold": cold.pop("start"), "warm": warm.pop("start")}
        result |= warm

        result["compile_mode"] = args.compile_mode or _compile_mode(args.backend, warm["macs"])
        modes = {EAGER: "eager", COMPILED: result["compile_mode"]} if args.peer else {}
        if args.compile_mode == "none":  # which on a CPU takes many minutes for a DenseNet
            modes.pop(COMPILED, None)
        for side, mode in modes.items():
            try:
                child = stack.enter_context(start_peer(args.peer_python, cache / mode))
                answer = prepare(child, {**request, "mode": mode})
                if answer["backend"] != args.backend:
                    raise ChildError(f"runs on a {answer['backend']}, not a {args.backend}")
                if answer["parameters"] != warm["parameters"]:
                    raise ChildError(f"is another network, of {answer['parameters']} parameters")
            except ChildError as error:
                result["notes"].append(f"{side}: {error}")
                continue
            children[side] = child
            result["starts"][side] = {"cold": answer["start"]}
            result["peer"] = answer["settings"]

        _measure_rates(result, children, _TRAINING, args)
        result["memory"] = {side: child.ask("memory")["GiB"] for side, child in children.items()}
        _measure_rates(result, children, _OTHERS, args)
    return result


def prepare(child: Child, request: dict[str, Any]) -> dict[str, Any]:
    """Lets a new child prepare itself and returns its answer.

    Its `start` holds the seconds from the start of the process to the end of its first step, and
    those of that step alone.
    """
    answer = child.ask("prepare", **request)
    seconds = time.perf_counter() - child.started
    return answer | {
        "start": {"seconds": seconds, "first_call_seconds": answer.pop("first_call_seconds")}
    }


def _compile_mode(backend: str, macs: int) -> str:
    """The mode of torch.compile that PyTorch recommends for a small or a large network."""
    if backend != "gpu":
        return "default"
    return "reduce-overhead" if macs < 400e6 else "max-autotune"


def _measure_rates(
    result: Result, children: dict[str, Child], tasks: Iterable[str], args: argparse.Namespace
) -> None:
    """Adds the rates of all sides to a result, in rounds through tasks and sides."""
    lanes = {}
    for task in tasks:
        for side, child in children.items():
            if task in args.tasks and task in _TASKS[side]:
                try:
                    lanes[side, task] = _steps(child, task, args, result["steps_per_epoch"])
                    result["rates"].setdefault(side, {})[task] = []
                except ChildError as error:
                    result["notes"].append(f"{side}, {task}: {error}")
    for _ in range(args.rounds):
        for (side, task), steps in list(lanes.items()):
            try:
                answer = children[side].ask("run", task=task, steps=steps)
                result["rates"][side][task].append(answer["count"] / answer["seconds"])
            except ChildError as error:
                result["notes"].append(f"{side}, {task}: {error}")
                del lanes[side, task], result["rates"][side][task]


def _steps(child: Child, task: str, args: argparse.Namespace, epoch: int) -> int:
    """Warms a task up and returns its number of steps per round."""
    for _ in range(3):
        child.ask("run", task=task, steps=1)
    is_epoch = task in ("device", "many", "tf")
    if is_epoch and (args.steps or args.backend == "gpu"):
        return min(args.steps or epoch, epoch)
    steps = args.steps_per_call if task == "many" else 1
    while (seconds := child.ask("run", task=task, steps=steps)["seconds"]) < args.seconds / 4:
        steps *= 2
    steps = max(1, round(steps * args.seconds / seconds))
    return min(steps, epoch) if is_epoch else steps


def write_data(path: Path, data_dir: str | None, eval_images: int) -> None:
    """Writes a NumPy archive of the images and labels that all sides read.

    Args:
      path: archive to write.
      data_dir: directory of CIFAR-10, as in `dataset.data_dir`; None for random images.
      eval_images: number of test images; 0 for all.
    """
    config = default().dataset
    if data_dir is None:
        info, random, splits = datasets.info(config), np.random.RandomState(0), {}
        for name, size in (("train", info.train_size), ("test", info.test_size)):
            images = random.randint(0, 256, (size, *info.image_shape), np.uint8)
            splits[name] = Split(images, random.randint(0, info.num_classes, size, np.int32))
    else:
        config.data_dir = data_dir
        splits = datasets.load(config)
    train, test = splits["train"], splits["test"]
    np.savez(
        path,
        train_images=train.images,
        train_labels=train.labels,
        test_images=test.images[: eval_images or None],
        test_labels=test.labels[: eval_images or None],
    )


def unfinished(path: Path, report: dict[str, Any]) -> list[Result]:
    """Returns the results of an interrupted benchmark like this one.

    Args:
      path: its benchmark.json, if there is one.
      report: report of this benchmark, without results. Software, hardware and the way of measuring
        must be the same.
    """
    if not path.exists():
        return []
    before = json.loads(path.read_text())
    ways = [json.loads(json.dumps(_way_of_measuring(one))) for one in (before, report)]
    if before.get("finished", True) or ways[0] != ways[1]:
        return []
    return [result for result in before["results"] if result["rates"]]


def _way_of_measuring(report: dict[str, Any]) -> dict[str, Any]:
    arguments, hardware = dict(report["arguments"]), dict(report["hardware"])
    for which in ("models", "precisions", "out"):
        del arguments[which]
    del hardware["host"]
    same = {name: report[name] for name in ("commit", "versions", "environment", "data")}
    return {**same, "arguments": arguments, "hardware": hardware}


def model_and_batch_size(text: str) -> tuple[str, int]:
    """Reads MODEL@BATCH_SIZE."""
    model, batch_size = text.split("@")
    return model, int(batch_size)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        type=model_and_batch_size,
        metavar="MODEL@BATCH_SIZE",
        help="[by backend]",
    )
    add("--precisions", nargs="+", help="float32, bfloat16 [GPU: both; CPU: float32]")
    add("--tasks", nargs="+", choices=_TASKS[OURS], default=_TASKS[OURS], help="[all]")
    add("--rounds", type=int, default=5, help="[5]")
    add("--seconds", type=float, default=3, help="duration of a task per round [3]")
    add("--steps", type=int, default=0, help="steps per epoch [GPU: all; CPU: by --seconds]")
    add("--steps_per_call", type=int, help="steps per call in the task 'many' [GPU: 100; CPU: 4]")
    add("--eval_images", type=int, help="number of test images, 0 for all [GPU: 0; CPU: 1000]")
    add("--data_dir", help="directory of CIFAR-10, '' for the default [random images]")
    add("--peer", choices=["torch"], help="measure PyTorch too")
    add("--peer_python", default=sys.executable, help="interpreter that has PyTorch [this one]")
    add("--compile_mode", help="mode of torch.compile; none: eager only [by network]")
    add("--out", type=Path, default=Path("runs/benchmark"), help="directory [runs/benchmark]")
    return parser.parse_args(arguments)


def resolve(args: argparse.Namespace, backend: str) -> None:
    """Sets the options whose default depends on the backend, gpu or another."""
    args.backend = backend
    known, on_gpu = _DEFAULTS["gpu" if backend == "gpu" else "cpu"], backend == "gpu"
    args.models = args.models or [model_and_batch_size(text) for text in known[0].split()]
    args.precisions = args.precisions or known[1].split()
    args.steps_per_call = args.steps_per_call or (100 if on_gpu else 4)
    if args.eval_images is None:
        args.eval_images = 0 if on_gpu else 1000


def main() -> None:
    """Runs the benchmark; exits with 1 if jaxcifar failed in any task."""
    args = parse()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data.npz"
        with start_ours(Path(scratch) / "cache") as child:
            facts = child.ask("describe")
        resolve(args, facts["backend"])
        write_data(data, args.data_dir, args.eval_images)
        facts["command"] = sys.argv
        facts["data"] = "random images" if args.data_dir is None else "CIFAR-10"
        report = {**facts, "arguments": {**vars(args), "out": str(args.out)}, "finished": False}
        saved = args.out / "benchmark.json"
        before = {_name(result): result for result in unfinished(saved, report)}
        report["results"] = []
        args.out.mkdir(parents=True, exist_ok=True)
        cases = [Case(*model, kind) for model in args.models for kind in args.precisions]
        for number, case in enumerate(cases, 1):
            name = _name(case._asdict())
            doing = "kept" if name in before else "measuring"
            print(doing, name, file=sys.stderr, flush=True)
            result = before.get(name) or measure(case, args, data)
            report["results"].append(result | summary(result, args.backend))
            report["finished"] = number == len(cases)
            # After each configuration, so that an interrupted benchmark keeps its results.
            write_json(saved, report)
            (args.out / "benchmark.md").write_text(markdown(report))
    print(markdown(report))
    if any(note.startswith(OURS) for result in report["results"] for note in result["notes"]):
        sys.exit(1)


def _name(case: dict[str, Any]) -> str:
    return "{model}@{batch_size} {precision}".format(**case)


if __name__ == "__main__":
    main()
