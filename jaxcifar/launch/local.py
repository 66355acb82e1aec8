"""Trains runs on this machine, one after another or several at a time."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from jaxcifar.errors import IN_USE, InputError, StoppedError
from jaxcifar.launch.trials import Trial
from jaxcifar.reporting import run_status
from jaxcifar.resilience import closed_output, manifest, signals

_POLL_SECONDS = 0.1
_WAIT_SECONDS = 1.0  # between looks at runs that other processes train
_RETRY_SECONDS = 30.0  # before starting a run again that another machine may have left
_GPUS = Path("/proc/driver/nvidia/gpus")
_GPU_MEMORY = 0.9  # share of a GPU that several runs divide


class Share(NamedTuple):
    """What one of several runs at a time may use.

    Attributes:
      cores: its cores; None for all.
      environment: variables to set.
    """

    cores: frozenset[int] | None
    environment: Mapping[str, str]


def shares(jobs: int) -> list[Share]:
    """Returns the cores and GPUs of this machine, divided among some runs at a time.

    Runs share a GPU, each with a part of its memory, if there are more runs than GPUs.

    Args:
      jobs: number of runs at a time.

    Raises:
      InputError: if there are neither cores nor GPUs for each.
    """
    if jobs == 1:
        return [Share(None, {})]
    gpus = _visible_gpus()
    cores: list[int] = []
    if hasattr(os, "sched_getaffinity"):  # not on macOS, where processes are not divided
        cores = sorted(os.sched_getaffinity(0))
        if jobs > len(cores):
            raise InputError(f"--jobs={jobs}: must be at most the number of cores, {len(cores)}")
    found = []
    for job in range(jobs):
        own = frozenset(cores[job * len(cores) // jobs : (job + 1) * len(cores) // jobs])
        environment = {}
        if gpus:
            chosen = gpus[job::jobs] or [gpus[job % len(gpus)]]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
            if jobs > len(gpus):
                per_gpu = -(-jobs // len(gpus))
                environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{_GPU_MEMORY / per_gpu:.3f}"
        found.append(Share(own or None, environment))
    return found


def _visible_gpus() -> list[str]:
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name.strip()]
    return [str(number) for number in range(len(list(_GPUS.glob("*"))) if _GPUS.exists() else 0)]


def train_all(runs: Sequence[Trial], jobs: int = 1) -> list[str]:
    """Trains runs, resuming those that have begun and leaving out those that have finished.

    What another process trains is left to it. Once nothing else is left, its runs are waited for,
    and taken over if it ends before they have finished. A failed run does not stop the others.
    One run at a time writes to the terminal; several write to `<workdir>.log`.

    Args:
      runs: the runs.
      jobs: number of runs at a time.

    Returns:
      The runs that failed, with their exit code, as text.

    Raises:
      StoppedError: if a signal stopped them; raised once all have ended.
      SystemExit: if the reader of standard output has gone.
    """
    return _Pool(runs, jobs).train()


class _Pool:
    """Runs that wait, are being trained here, or by other processes."""

    def __init__(self, runs: Sequence[Trial], jobs: int):
        self._total, self._started = len(runs), 0
        self._numbers = {run.workdir: number for number, run in enumerate(runs, 1)}
        self._free = shares(jobs)
        self._alone = jobs == 1
        self._waiting = list(runs)
        self._elsewhere: list[Trial] = []
        self._refused: dict[Path, float] = {}  # when another process was found to hold the lock
        self._has_told = False
        self._active: dict[subprocess.Popen[bytes], tuple[Trial, Share]] = {}
        self._failed: list[str] = []

    def train(self) -> list[str]:
        with forwarding(lambda: list(self._active)) as received:
            while self._waiting or self._active or self._elsewhere:
                while self._waiting and self._free and not received:
                    self._start(self._waiting.pop(0))
                for process in [p for p in self._active if p.poll() is not None]:
                    self._finish(process)
                if received and not self._active:
                    break
                if self._elsewhere and not (self._waiting or self._active):
                    self._wait_for_others(received)
                elif self._active:
                    time.sleep(_POLL_SECONDS)
        if received:
            raise StoppedError(
                f"the sweep was stopped by {signals.describe(received[0])}; rerun the same command "
                "to resume",
                code=128 + received[0],
            )
        return self._failed

    def _start(self, run: Trial) -> None:
        label = f"[{self._numbers[run.workdir]}/{self._total}] {run.workdir}"
        if "end" in manifest.read(run.workdir):
            print(f"{label}: already finished", flush=True)
        elif _is_running(run.workdir):
            print(f"{label}: another process trains it", flush=True)
            self._elsewhere.append(run)
        else:
            print(label, flush=True)
            share = self._free.pop()
            self._active[self._process(run, share)] = run, share

    def _process(self, run: Trial, share: Share) -> "subprocess.Popen[bytes]":
        """Starts a run, in its own process group: otherwise Ctrl-C would reach it twice."""
        environment, cores = {**os.environ, **share.environment}, share.cores
        if self._alone:
            return subprocess.Popen(run.command, process_group=0, env=environment)
        run.workdir.parent.mkdir(parents=True, exist_ok=True)
        with (
            run.workdir.with_name(run.workdir.name + ".log").open("ab") as log,
            _on_cores(cores),
        ):
            return subprocess.Popen(
                run.command, process_group=0, env=environment, stdout=log, stderr=log
            )

    def _finish(self, process: "subprocess.Popen[bytes]") -> None:
        run, share = self._active.pop(process)
        self._free.append(share)
        code = process.returncode
        if code == closed_output.EXIT_CODE:
            for other in self._active:
                other.send_signal(signal.SIGTERM)
            raise SystemExit(code)
        if code == IN_USE:
            self._refused[run.workdir] = time.monotonic()
            self._elsewhere.append(run)
        elif code:
            self._failed.append(f"{run.workdir} (exit code {code})")
        if not self._alone and code != IN_USE:
            outcome = f"failed with exit code {code}" if code else "finished"
            print(f"{run.workdir}: {outcome}; see {run.workdir}.log", flush=True)

    def _wait_for_others(self, received: list[int]) -> None:
        """Waits until one of the runs that others train has finished or been left."""
        if not self._has_told:
            names = ", ".join(str(run.workdir) for run in self._elsewhere)
            print(f"waiting for other processes to finish {names}", flush=True)
            self._has_told = True
        while not received:
            left = [run for run in self._elsewhere if not self._is_elsewhere(run)]
            if left:
                self._elsewhere = [run for run in self._elsewhere if run not in left]
                self._waiting = left
                return
            time.sleep(_WAIT_SECONDS)

    def _is_elsewhere(self, run: Trial) -> bool:
        """Whether another process still trains a run, or was seen to a short time ago."""
        if "end" in manifest.read(run.workdir):
            return False
        refused = self._refused.get(run.workdir, -_RETRY_SECONDS)
        return _is_running(run.workdir) or time.monotonic() - refused < _RETRY_SECONDS


def _is_running(workdir: Path) -> bool:
    """Whether a process of this machine trains in a workdir; others are known by the lock alone."""
    try:
        return run_status.read(workdir).state == "running"
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def _on_cores(cores: frozenset[int] | None) -> Iterator[None]:
    """Starts processes on some cores: they inherit those of the thread that starts them.

    Setting them in the new process would need a fork, which can hang after JAX has made threads.
    """
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def forwarding(
    children: Callable[[], list["subprocess.Popen[bytes]"]],
) -> Iterator[list[int]]:
    """Forwards the signals that end a run to all children; yields a list of those received."""
    received: list[int] = []

    def forward(number: int, _: Any) -> None:
        received.append(number)
        for child in children():
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in signals.unignored()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
