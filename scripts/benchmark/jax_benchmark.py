"""jaxcifar's side of scripts/benchmark/benchmark.py: measures one configuration, on demand.

It reads a JSON object a line from standard input and answers each with one on standard output,
until the input ends: `do` names a method of `Worker`, the other fields are its arguments; an answer
with the field "error" says what failed. scripts/benchmark/torch_benchmark.py does the same in PyTorch.
"""

import json
import math
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxcifar import devices, environment, models
from jaxcifar.config import default, durations
from jaxcifar.config.validation import validate
from jaxcifar.data import datasets
from jaxcifar.data.batches import train_batches
from jaxcifar.data.datasets import Split
from jaxcifar.evaluate import Evaluator
from jaxcifar.feed import create_feed
from jaxcifar.models.counting import count
from jaxcifar.resilience import manifest
from jaxcifar.steps import create_program

_LENGTH = 10**6  # steps of the run that the measured ones are the beginning of


class Worker:
    """Measures one configuration in this process; `prepare` comes before `run` and `memory`."""

    def describe(self) -> dict:
        """Returns the backend, CPU settings, and what a manifest says of a start."""
        start = manifest.describe_start(0)
        return {"backend": jax.default_backend(), "settings": environment.in_effect(), **start}

    def prepare(
        self, model: str, batch_size: int, precision: str, data: str, steps_per_call: int
    ) -> dict:
        """Makes the state, moves a batch to the device and makes the first step.

        Args:
          model, batch_size, precision: of the config.
          data: a NumPy archive, see `write_data` of scripts/benchmark/benchmark.py.
          steps_per_call: of the task "many".

        Returns:
          The network's counts, the steps of an epoch, and the seconds of the first step.
        """
        self.config = _config(model, batch_size, precision)
        with np.load(data) as arrays:
            self.splits = {
                name: Split(arrays[f"{name}_images"], arrays[f"{name}_labels"], on_device=True)
                for name in ("train", "test")
            }
        info, train = datasets.info(self.config.dataset), self.splits["train"]
        self.program = create_program(self.config, info, durations(self.config, train.size))
        self.state = devices.replicate(self.program.create_state())
        mask = np.ones(batch_size, bool)
        batch = {"image": train.images[:batch_size], "label": train.labels[:batch_size]}
        self.batch = next(devices.prefetch([batch | {"mask": mask}]))
        self.train_step = devices.map_train_step(self.program.train_step)
        self.create_loop: dict[str, Callable[[], Callable[[int], int]]] = {
            "fixed": lambda: self._fixed_batch,
            "device": lambda: self._epoch("device", 1),
            "many": lambda: self._epoch("device", steps_per_call),
            "tf": lambda: self._epoch("tf", 0),
            "evaluation": self._evaluation,
            "pipeline": self._pipeline,
            "matrix": self._matrix,
        }
        self.loops: dict[str, Callable[[int], int]] = {}
        self.train_calls: dict[tuple[str, int], Callable] = {}
        start = time.perf_counter()
        self._fixed_batch(1)
        seconds = time.perf_counter() - start
        counts = count(models.from_config(self.config, info.num_classes), info.image_shape)
        steps = train.size // batch_size
        return {"first_call_seconds": seconds, "steps_per_epoch": steps, **counts._asdict()}

    def run(self, task: str, steps: int) -> dict:
        """Does at least so many steps of a task; returns the count and the seconds they took.

        The count is that of images, and of floating-point operations for "matrix".
        """
        works_ahead = task in ("tf", "pipeline")
        if works_ahead or task not in self.loops:  # anew, or it would have worked while idle
            self.loops[task] = self.create_loop[task]()
        loop = self.loops[task]
        if works_ahead:
            loop(1 + steps // 4)
        start = time.perf_counter()
        done = loop(steps)
        return {"count": done, "seconds": time.perf_counter() - start}

    def memory(self) -> dict:
        """Returns the most memory in use so far, of a device or else of the process, in GiB."""
        status = Path("/proc/self/status")
        if peak := devices.memory().get("peak_memory"):
            return {"GiB": peak}
        if status.exists():  # getrusage starts from the size of the parent process
            return {"GiB": int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 2**20}
        return {"GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}

    def _fixed_batch(self, steps: int) -> int:
        for _ in range(steps):
            self.state, sums, _ = self.train_step(self.state, self.batch)
        jax.block_until_ready((self.state, sums))
        return steps * self.config.train.batch_size

    def _epoch(self, pipeline: str, steps_per_call: int) -> Callable[[int], int]:
        config = self.config.copy_and_resolve_references()
        config.dataset.pipeline = pipeline
        config.train.steps_per_call = steps_per_call
        feed = create_feed(
            config,
            self.program,
            self.splits["train"]._replace(on_device=pipeline == "device"),
            first_step=0,
            num_steps=_LENGTH,
            next_due=lambda step: _LENGTH,
        )
        # The first one's, which is compiled.
        train_call = self.train_calls.setdefault((pipeline, steps_per_call), feed.train_call)

        def loop(steps: int) -> int:
            done, in_flight = 0, []
            while done < steps:
                call = next(feed.calls)
                self.state, sums, _ = train_call(self.state, *call.arguments)
                in_flight.append(sums)
                done += call.steps
            devices.fetch(in_flight)  # as training does
            return done * config.train.batch_size

        return loop

    def _evaluation(self) -> Callable[[int], int]:
        test = self.splits["test"]
        config = self.config.copy_and_resolve_references()
        config.eval.batch_size = min(config.eval.batch_size, test.size)
        evaluator = Evaluator(config, self.program, {"test": test})

        def loop(passes: int) -> int:
            for _ in range(passes):
                evaluator(self.state)
            return passes * test.size

        return loop

    def _pipeline(self) -> Callable[[int], int]:
        train = self.splits["train"]
        batches = train_batches(train, self.config, first_step=0, num_steps=_LENGTH)
        return lambda steps: sum(len(next(batches)["label"]) for _ in range(steps))

    def _matrix(self) -> Callable[[int], int]:
        size = 8192 if jax.default_backend() == "gpu" else 2048
        keys = jax.random.split(jax.random.key(0))
        x, w = (jax.random.normal(key, (size, size), self.config.train.precision) for key in keys)
        w = w / math.sqrt(size)  # keeps the products' size
        product = jax.jit(lambda x, w: x @ w)

        def loop(steps: int) -> int:
            y = x
            for _ in range(steps):
                y = product(y, w)
            jax.block_until_ready(y)
            return steps * 2 * size**3

        return loop


def _config(model: str, batch_size: int, precision: str) -> ConfigDict:
    """The classic recipe's step: SGD with momentum, weight decay, crop and flip."""
    config = default()
    config.model.name = model
    config.optimizer.learning_rate = 0.01
    config.train.batch_size = batch_size
    config.train.precision = precision
    config.train.num_steps = _LENGTH
    validate(config)
    return config


def main() -> None:
    """Answers what standard input asks."""
    environment.prepare()  # nothing is left to do where scripts/benchmark/benchmark.py has started this
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".strip().splitlines()[0]}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
