"""Checkpoints damaged on disk: all damage is detected, and no damaged checkpoint is deleted."""

import os
import random
import shutil
from itertools import cycle

import pytest

from jaxcifar.errors import InputError
from jaxcifar.resilience import integrity
from jaxcifar.resilience.checkpoint import Checkpoints
from jaxcifar.resilience.progress import Progress
from tests.helpers import assert_same_bits
from tests.resilience.test_checkpoint import create, state, steps


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The checkpoint directories of two runs, each with steps 1 and 2."""
    runs = []
    for seed in (0, 10):
        runs.append(tmp_path_factory.mktemp("run"))
        with Checkpoints(runs[-1], keep_every=1) as checkpoints:
            for step in (1, 2):
                checkpoints.save(step, state(seed + step), Progress({"loss": seed + step}))
    return runs


def files(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


def replaced_by(source):
    def damage(file, number):
        others = files(source)
        file.write_bytes(others[number % len(others)].read_bytes())

    return damage


def emptied(file, _):
    file.write_bytes(b"")


def halved(file, _):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def deleted(file, _):
    file.unlink()


def swapped(file, number):
    others = files(next(parent for parent in file.parents if parent.name == "2"))
    other = others[(number + 1) % len(others)]
    one, two = file.read_bytes(), other.read_bytes()
    file.write_bytes(two)
    other.write_bytes(one)


def unreadable(file, _):
    """Makes a file unreadable, even for root: a link to itself."""
    file.unlink()
    file.symlink_to(file.name)


def a_directory(file, _):
    file.unlink()
    file.mkdir()


def a_pipe(file, _):
    file.unlink()
    os.mkfifo(file)


def nested(file, _):
    file.write_bytes(b"[" * 100_000)


def grown(file, _):
    file.write_bytes(file.read_bytes() + b"\0")


def joined(file, _):
    file.with_name(file.name + "2").write_bytes(file.read_bytes())


def test_any_damage_to_any_file_is_set_aside_for_the_checkpoint_before(runs, tmp_path):
    kinds = [
        *(
            emptied,
            halved,
            deleted,
            swapped,
            unreadable,
            a_directory,
            a_pipe,
            nested,
            grown,
            joined,
        ),
        *(replaced_by(runs[0] / "1"), replaced_by(runs[1] / "2")),
    ]
    names = [path.relative_to(runs[0]) for path in files(runs[0] / "2")]
    assert len(names) > 8
    noticed = 0
    for number, name in enumerate(names):
        for kind in kinds:
            directory = tmp_path / "run"
            shutil.copytree(runs[0], directory)
            kind(directory / name, number)
            same = all(
                (directory / other).is_file()
                and (directory / other).read_bytes() == (runs[0] / other).read_bytes()
                for other in names
            )
            if not same or kind is joined:  # some files have equal contents
                with Checkpoints(directory) as checkpoints:
                    restored = checkpoints.restore_latest(create)
                assert restored.step == 1 and restored.progress.train_sums == {"loss": 1}
                assert_same_bits(restored.state, state(1))
                (aside,) = directory.glob("2.damaged-*")
                assert not (directory / "2").exists()
                noticed += 1
            shutil.rmtree(directory)
    assert noticed >= 0.9 * len(names) * len(kinds)


def test_a_thousand_flipped_bits_are_noticed(runs, tmp_path):
    directory = tmp_path / "2"
    shutil.copytree(runs[0] / "2", directory)
    integrity.verify(directory)
    draw = random.Random(0)
    for _, file in zip(range(1000), cycle(files(directory)), strict=False):
        data = file.read_bytes()
        bit = draw.randrange(8 * len(data))
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        with pytest.raises(integrity.DamageError, match=file.name):
            integrity.verify(directory)
        file.write_bytes(data)
    integrity.verify(directory)


@pytest.mark.parametrize(
    "source, why", [((0, "1"), "other-step"), ((1, "2"), "other-run"), ((1, "1"), "other-step")]
)
def test_a_whole_checkpoint_in_the_wrong_place_is_set_aside(runs, tmp_path, source, why):
    directory = tmp_path / "run"
    shutil.copytree(runs[0], directory)
    shutil.rmtree(directory / "2")
    shutil.copytree(runs[source[0]] / source[1], directory / "2")
    with Checkpoints(directory, keep_every=1) as checkpoints:
        with pytest.raises(InputError, match="/2 is damaged: manifest.json: (step|run) is "):
            checkpoints.restore(2, create)
        assert checkpoints.restore_latest(create).step == 1
        assert (directory / f"2.damaged-{why}-manifest.json").is_dir()
        checkpoints.save(2, state(5), Progress())
    with Checkpoints(directory) as checkpoints:
        assert_same_bits(checkpoints.restore_latest(create).state, state(5))


def test_names_of_what_is_set_aside_are_not_taken_twice(runs, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(runs[0], directory)
    for _ in range(3):
        (directory / "2" / "manifest.json").unlink()
        with Checkpoints(directory, keep_every=1) as checkpoints:
            checkpoints.restore_latest(create)
            checkpoints.save(2, state(2), Progress())
    assert sorted(path.name for path in directory.glob("2.*")) == [
        "2.damaged-unreadable-manifest.json",
        "2.damaged-unreadable-manifest.json-2",
        "2.damaged-unreadable-manifest.json-3",
    ]


def test_a_run_never_starts_again_silently(runs, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(runs[0], directory)
    (directory / "1" / "manifest.json").unlink()
    shutil.rmtree(directory / "2")
    (directory / "2").mkdir()
    before = sorted(directory.rglob("*"))
    with Checkpoints(directory) as checkpoints:
        with pytest.raises(
            InputError, match="no intact checkpoint; the newest, step 2, .*: manifest"
        ):
            checkpoints.restore_latest(create)
    assert sorted(directory.rglob("*")) == before


def holding(data):
    def damage(file, _):
        file.write_bytes(data)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        *(emptied, halved, deleted, unreadable, a_directory, a_pipe),
        *map(holding, (b"\0" * 33, b"\xff\xfe" * 16, b"a run\n", b"0" * 33)),
    ],
)
def test_a_lost_run_id_is_found_in_the_checkpoints(runs, tmp_path, damage):
    directory = tmp_path / "run"
    shutil.copytree(runs[0], directory)
    damage(directory / "run_id", 0)
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.restore_latest(create).step == 2
        checkpoints.save(3, state(3), Progress())
    assert (directory / "run_id").read_text() == (runs[0] / "run_id").read_text()
    assert steps(directory) == [3]
