"""Power cuts, which take away what was never synced."""

import os
import random
import threading
from itertools import count

import pytest

from jaxcifar.reporting import csv_log
from jaxcifar.reporting.csv_log import CsvLog, read_rows
from jaxcifar.resilience import checkpoint, manifest, store
from jaxcifar.resilience.checkpoint import Checkpoints
from jaxcifar.resilience.files import make_directory
from jaxcifar.resilience.progress import Progress
from tests.helpers import assert_same_bits
from tests.resilience.power_cut import Disk, cut
from tests.resilience.test_checkpoint import create, state

COLUMNS = ("step", "loss", "split")


class Run:
    """A run of twelve steps without a network, on a disk whose power is cut at each named point."""

    def __init__(self, base, seed):
        self.base, self.root, self.draw = base, base / "disk", random.Random(seed)
        self.workdir = self.root / "runs" / "a"
        self.root.mkdir()
        self.disk = Disk(base / "synced", self.root)
        self.numbers, self.turn = count(), threading.RLock()
        self.sealed, self.started, self.cuts, self.busy = 0, False, 0, False

    def sync(self, descriptor):
        with self.turn:
            if not self.busy:
                self.disk.sync(descriptor)

    def at(self, point, before=None):
        """Called at each failpoint: looks at what a cut would leave there, one time in three."""
        with self.turn:
            if self.busy:
                return
            if self.draw.random() < 1 / 3:
                self.busy = True
                self.look()
                self.busy = False
            self.sealed += point == "committed"

    def look(self):
        after = self.base / f"after-{next(self.numbers)}"
        cut(self.base / "synced", self.root, after, self.draw)
        workdir = after / "runs" / "a"
        if not workdir.exists():
            assert not self.started
            return
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            restored = checkpoints.restore_latest(create)
        assert restored.step >= self.sealed
        if restored.step:
            assert_same_bits(restored.state, state(restored.step))
        CsvLog(workdir / "metrics.csv", COLUMNS, restored.step).close()
        steps = [int(row["step"]) for row in read_rows(workdir / "metrics.csv")]
        assert steps == list(range(1, restored.step + 1))
        assert not self.started or manifest.read(workdir)["seed"] == 3
        self.cuts += 1

    def train(self):
        make_directory(self.workdir)
        with Checkpoints(self.workdir / "checkpoints") as checkpoints:
            manifest.update(self.workdir, seed=3)
            self.started = True
            log = CsvLog(self.workdir / "metrics.csv", COLUMNS, 0)
            for step in range(1, 13):
                log.write([{"step": step, "loss": 1 / step, "split": "train"}])
                checkpoints.save(step, state(step), Progress(), before=log.sync)
                if step % 3:
                    checkpoints.wait()
            log.close()
            checkpoints.wait()
            assert checkpoints.failure() is None


@pytest.mark.parametrize("seed", [0, 1])
def test_a_power_cut_costs_no_checkpoint_and_no_row_before_it(tmp_path, monkeypatch, seed):
    run = Run(tmp_path, seed)
    monkeypatch.setattr(os, "fsync", run.sync)
    for module in store, checkpoint, csv_log:
        monkeypatch.setattr(module, "kill_at", run.at)
    run.train()
    assert run.cuts > 15 and run.sealed == 12
