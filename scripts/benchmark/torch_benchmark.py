"""The PyTorch side of benchmark.py: the same training in plain PyTorch, on request.

    echo '{"do": "prepare", "model": "resnet20", "batch_size": 128, "precision": "float32",
           "data": "data.npz", "mode": "eager"}' | tr -d '\n' | python torch_benchmark.py

Needs only PyTorch and NumPy. Reads one JSON object per line from standard input and answers each
with one on standard output, until the input ends. `do` names a method of `Worker`, and the other
fields are its arguments; an answer with the field "error" describes a failure.

The peer is set up as its users do for speed: channels last, fused SGD, autocast to bfloat16, TF32
and cuDNN's search on a GPU, no synchronisation within a run, and the data set resident on the
device, where whole batches are cropped and mirrored by one gather.
"""

import json
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1] / "goldens"))
from torch_models import cifar_resnet, densenet, resnet, speedrun

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PADDING = 4
_SPEEDRUNS = {
    "speedrun94": ((64, 256, 256), 2),
    "speedrun95": ((128, 384, 384), 2),
    "speedrun96": ((128, 384, 512), 3),
}
_DENSENETS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}

Batch = tuple[torch.Tensor, torch.Tensor]


def create_model(name: str) -> nn.Module:
    """Returns the network with this name in jaxcifar, for ten classes of 32x32 images."""
    if match := re.fullmatch(r"resnet(\d+)", name):
        depth = int(match[1])
        return resnet(depth) if depth in (18, 34, 50, 101, 152) else cifar_resnet(depth)
    if match := re.fullmatch(r"densenet_bc_(\d+)_(\d+)", name):
        return densenet(((int(match[1]) - 4) // 6,) * 3, int(match[2]))
    if match := re.fullmatch(r"densenet(\d+)", name):
        return densenet(_DENSENETS[int(match[1])], 32)
    if name in _SPEEDRUNS:
        return speedrun(*_SPEEDRUNS[name])
    raise ValueError(f"no network {name!r}")


def crop_and_flip(padded: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Returns the images of `index`, each cropped and mirrored at random.

    Args:
      padded: uint8 [N, H + 2 * PADDING, W + 2 * PADDING, C].
      index: int64 [B].

    Returns:
      uint8 [B, C, H, W], channels last in memory.
    """
    size, device = len(index), index.device
    height, width = (side - 2 * PADDING for side in padded.shape[1:3])
    offsets = torch.randint(0, 2 * PADDING + 1, (2, size, 1), device=device)
    rows = offsets[0] + torch.arange(height, device=device)
    columns = offsets[1] + torch.arange(width, device=device)
    mirrored = torch.rand(size, 1, device=device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    images = padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
    return images.permute(0, 3, 1, 2)


class Worker:
    """Measures one network; `prepare` comes first."""

    def prepare(self, model: str, batch_size: int, precision: str, data: str, mode: str) -> dict:
        """Creates the network, moves the data to the device and takes the first step.

        Args:
          model: name of the network in jaxcifar.
          batch_size: number of examples per step.
          precision: float32, or bfloat16 by autocast.
          data: a NumPy archive of train_images uint8 [N, 32, 32, 3], train_labels, test_images and
            test_labels.
          mode: eager, or a mode of torch.compile.

        Returns:
          What ran it, the number of parameters, and the seconds of the first step.
        """
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"no precision {precision!r} here")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.set_float32_matmul_precision("high")  # TF32, as JAX and cuDNN do by default
        torch.backends.cudnn.benchmark = True
        self.batch_size, self.precision = batch_size, precision
        self._load(data)
        self.mean, self.std = (
            255 * torch.tensor(x, device=self.device)[:, None, None] for x in (MEAN, STD)
        )
        self.model = create_model(model).to(self.device, memory_format=torch.channels_last)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            self.trained, lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True
        )
        self.loss_fn, self.augment = self.loss, crop_and_flip
        if mode != "eager":
            self.loss_fn = torch.compile(self.loss, mode=mode)
            self.augment = torch.compile(crop_and_flip)
        self.loss_sum = torch.zeros((), device=self.device)
        self.batches = self._augmented()
        self.fixed = self._examples(torch.arange(batch_size, device=self.device))
        self.loops: dict[str, Callable[[int], int]] = {
            "fixed": self._fixed_batch,
            "device": self._epoch,
            "evaluation": self._evaluate,
        }
        start = time.perf_counter()
        self._fixed_batch(1)
        return {
            "first_call_seconds": time.perf_counter() - start,
            "parameters": sum(parameter.numel() for parameter in self.trained),
            "backend": "gpu" if self.device.type == "cuda" else "cpu",
            "settings": f"PyTorch {torch.__version__}, Python {platform.python_version()}, "
            + (
                f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
                if self.device.type == "cuda"
                else f"{torch.get_num_threads()} threads"
            ),
        }

    def run(self, task: str, steps: int) -> dict:
        """Takes the steps of a task; returns the number of images and the seconds they took."""
        start = time.perf_counter()
        images = self.loops[task](steps)
        return {"count": images, "seconds": time.perf_counter() - start}

    def memory(self) -> dict:
        """Returns the peak memory so far, of the GPU or else of the process, in GiB."""
        if self.device.type == "cuda":
            return {"GiB": torch.cuda.max_memory_allocated() / 2**30}
        status = Path("/proc/self/status")
        if status.exists():  # getrusage starts from the size of the parent process
            return {"GiB": int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 2**20}
        return {"GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the mean loss of uint8 images [B, C, H, W]."""
        return F.cross_entropy(self._logits(images), labels)

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        images = (images.float() - self.mean) / self.std
        with torch.autocast(self.device.type, torch.bfloat16, self.precision == "bfloat16"):
            return self.model(images)

    def _load(self, path: str) -> None:
        with np.load(path) as data:
            arrays = {name: torch.from_numpy(data[name]).to(self.device) for name in data}
        sides = (0, 0, PADDING, PADDING, PADDING, PADDING)
        self.padded = F.pad(arrays["train_images"], sides)
        self.labels = arrays["train_labels"].long()
        self.test_images = arrays["test_images"].permute(0, 3, 1, 2)
        self.test_labels = arrays["test_labels"].long()

    def _examples(self, index: torch.Tensor) -> Batch:
        return self.augment(self.padded, index), self.labels[index]

    def _augmented(self) -> Iterator[Batch]:
        while True:
            order = torch.randperm(len(self.labels), device=self.device)
            for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
                yield self._examples(order[start : start + self.batch_size])

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        loss = self.loss_fn(images, labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss_sum += loss.detach()

    def _fixed_batch(self, steps: int) -> int:
        for _ in range(steps):
            self._step(*self.fixed)
        self._wait()
        return steps * self.batch_size

    def _epoch(self, steps: int) -> int:
        for _ in range(steps):
            self._step(*next(self.batches))
        self._wait()
        return steps * self.batch_size

    @torch.no_grad()
    def _evaluate(self, passes: int) -> int:
        """Evaluates the test images, without torch.compile."""
        self.model.eval()
        for _ in range(passes):
            correct = torch.zeros((), device=self.device)
            for start in range(0, len(self.test_labels), 1000):
                labels = self.test_labels[start : start + 1000]
                logits = self._logits(self.test_images[start : start + 1000])
                self.loss_sum += F.cross_entropy(logits, labels, reduction="sum")
                correct += (logits.argmax(1) == labels).sum()
            self._wait()
        self.model.train()
        return passes * len(self.test_labels)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    """Answers the requests on standard input."""
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
