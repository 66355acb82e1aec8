"""jaxcifar's side of benchmark.py: measures one configuration on request.

Reads one JSON object per line from standard input and answers each with one on standard output,
until the input ends. `do` names a method of `Worker`, and the other fields are its arguments; an
answer with the field "error" describes a failure. torch_benchmark.py does the same in PyTorch.
"""

import json
import math
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxcifar import devices, environment, models
from jaxcifar.config import default, durations
from jaxcifar.config.validation import validate
from jaxcifar.data import datasets
from jaxcifar.data.batches import train_batches
from jaxcifar.data.split import Batch, Split
from jaxcifar.evaluate import Evaluator
from jaxcifar.feed import train_calls
from jaxcifar.models.counting import count
from jaxcifar.program import create_program
from jaxcifar.resilience import manifest

_LENGTH = 10**6  # steps of the run that the measured ones are the beginning of


class Worker:
    """Measures one configuration in this process; `prepare` comes before `run` and `memory`."""

    def describe(self) -> dict:
        """Returns the backend, the CPU settings and the manifest entry of a start."""
        start = manifest.describe_start(0)
        return {"backend": jax.default_backend(), "settings": environment.in_effect(), **start}

    def prepare(
        self, model: str, batch_size: int, precision: str, data: str, steps_per_call: int
    ) -> dict:
        """Creates the state, moves a batch to the device and takes the first step.

        Args:
          model, batch_size, precision: values of the config's fields.
          data: NumPy archive, see `write_data` in benchmark.py.
          steps_per_call: steps per call of the task "many".

        Returns:
          The network's counts, the steps per epoch, and the seconds of the first step.
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
            "device": lambda: self._from_device(1),
            "many": lambda: self._from_device(steps_per_call),
            "tf": self._from_tf_data,
            "evaluation": self._evaluation,
            "pipeline": self._pipeline,
            "matrix": self._matrix,
        }
        self.loops: dict[str, Callable[[int], int]] = {}
        start = time.perf_counter()
        self._fixed_batch(1)
        seconds = time.perf_counter() - start
        counts = count(models.from_config(self.config, info.num_classes), info.image_shape)
        steps = train.size // batch_size
        return {"first_call_seconds": seconds, "steps_per_epoch": steps, **counts._asdict()}

    def run(self, task: str, steps: int) -> dict:
        """Takes at least `steps` steps of a task; returns a count and the seconds they took.

        The count is of images, or of floating-point operations for "matrix".
        """
        works_ahead = task in ("tf", "pipeline")
        if works_ahead or task not in self.loops:  # one that has not worked ahead while idle
            self.loops[task] = self.create_loop[task]()
        loop = self.loops[task]
        if works_ahead:
            loop(1 + steps // 4)
        start = time.perf_counter()
        done = loop(steps)
        return {"count": done, "seconds": time.perf_counter() - start}

    def memory(self) -> dict:
        """Returns the peak memory so far, of a device or else of the process, in GiB."""
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

    def _from_device(self, steps_per_call: int) -> Callable[[int], int]:
        config = self.config.copy_and_resolve_references()
        config.train.steps_per_call = steps_per_call
        calls = train_calls(
            config,
            self.program,
            self.splits["train"],
            first_step=0,
            num_steps=_LENGTH,
            next_due=lambda step: _LENGTH,
        )

        def loop(steps: int) -> int:
            done, in_flight = 0, []
            while done < steps:
                call = next(calls)
                self.state, sums, _ = call.run(self.state)
                in_flight.append(sums)
                done += call.num_steps
            devices.fetch(in_flight)  # as training does
            return done * config.train.batch_size

        return loop

    def _from_tf_data(self) -> Callable[[int], int]:
        batches = devices.prefetch(self._batches())

        def loop(steps: int) -> int:
            in_flight = []
            for _ in range(steps):
                self.state, sums, _ = self.train_step(self.state, next(batches))
                in_flight.append(sums)
            devices.fetch(in_flight)  # as training does
            return steps * self.config.train.batch_size

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
        batches = self._batches()
        return lambda steps: sum(len(next(batches)["label"]) for _ in range(steps))

    def _batches(self) -> Iterator[Batch]:
        train = self.splits["train"]
        return train_batches(train, self.config, first_step=0, num_steps=_LENGTH)

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
    """Answers the requests on standard input."""
    environment.prepare()  # does nothing if benchmark.py has started this process
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with answers
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
