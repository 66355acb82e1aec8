"""Which folders of images a resumed run accepts, and which fingerprint it records."""

import numpy as np
import pytest

from jaxcifar.data import datasets
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.data.split import Split
from jaxcifar.errors import InputError
from jaxcifar.resilience import data_check
from jaxcifar.resilience.data_check import check_splits
from jaxcifar.resilience.files import write_json

MIDDLE, END = 5000, -1


@pytest.fixture
def splits(tmp_path):
    """Three training and two test files of 10 kB."""

    def make(part, count):
        (tmp_path / part).mkdir()
        names = tuple(f"{part}/{i}.png" for i in range(count))
        for i, name in enumerate(names):
            (tmp_path / name).write_bytes(bytes([i]) * 10_000)
        return FolderSplit(str(tmp_path), names, np.zeros(count, np.int32), ("class",))

    return {"train": make("train", 3), "test": make("val", 2)}


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def record(workdir, fingerprints):
    write_json(workdir / "manifest.json", {"data": fingerprints})


def start(workdir, splits, kind="auto"):
    record(workdir, fingerprints := check_splits(workdir, splits, kind))
    return fingerprints


def replace(split, place):
    """Replaces a file by one of the same size which differs in one byte."""
    with open(split.path(1), "r+b") as file:
        file.seek(place, 2 if place < 0 else 0)
        file.write(b"x")


def kinds(fingerprints):
    return {value.split(":")[0] for value in fingerprints.values()}


@pytest.mark.parametrize(
    "kind, recorded, noticed",
    [
        ("auto", "contents", [MIDDLE, END]),
        ("contents", "contents", [MIDDLE, END]),
        ("sample", "sample", [MIDDLE]),
        ("names", "names", []),
    ],
)
def test_another_image_of_the_same_name_and_size(workdir, splits, kind, recorded, noticed):
    first = start(workdir, splits, kind)
    assert kinds(first) == {recorded}
    assert start(workdir, splits, kind) == first
    for place in (END, MIDDLE):
        replace(splits["test"], place)
        if place in noticed:
            with pytest.raises(InputError, match="the test split differs from the one"):
                check_splits(workdir, splits, kind)
        else:
            start(workdir, splits, kind)


def test_only_a_sample_is_read_by_default_where_there_is_much(workdir, splits, monkeypatch):
    monkeypatch.setattr(data_check, "_CHEAP", 29_999)
    found = start(workdir, splits)
    assert found["train"].startswith("sample:") and found["test"].startswith("contents:")
    assert start(workdir, splits) == found


def before_there_were_kinds(splits):
    found = datasets.fingerprints(splits, dict.fromkeys(splits, "names"))
    return {name: value.removeprefix("names:") for name, value in found.items()}


def test_a_run_of_an_earlier_version_resumes_and_is_checked_by_contents_from_then_on(
    workdir, splits, capsys
):
    record(workdir, before_there_were_kinds(splits))
    found = start(workdir, splits)
    assert kinds(found) == {"contents"}
    said = capsys.readouterr().out
    assert str(workdir) in said and "names and sizes of the files only" in said
    assert said.count("\n") == 1
    assert start(workdir, splits) == found and not capsys.readouterr().out
    replace(splits["train"], MIDDLE)
    with pytest.raises(InputError, match="the train split differs"):
        check_splits(workdir, splits, "auto")


def test_a_run_of_an_earlier_version_with_other_files_is_refused(workdir, splits):
    record(workdir, before_there_were_kinds(splits))
    with open(splits["test"].path(0), "ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="the test split differs") as caught:
        check_splits(workdir, splits, "auto")
    assert "did not read" not in str(caught.value)


def test_files_that_an_earlier_version_passed_over_are_named(workdir, splits, tmp_path):
    record(workdir, before_there_were_kinds(splits))
    (tmp_path / "train" / "x.webp").write_bytes(b"x")
    train = splits["train"]
    more = FolderSplit(train.root, (*train.names, "train/x.webp"), np.zeros(4, np.int32), ())
    with pytest.raises(InputError, match=r"did not read .bmp, .gif, .webp files \(1 here\)"):
        check_splits(workdir, splits | {"train": more}, "auto")


@pytest.mark.parametrize("first, second", [("sample", "contents"), ("names", "sample")])
def test_a_stronger_kind_replaces_a_weaker_one_once_that_agrees(workdir, splits, first, second):
    start(workdir, splits, first)
    assert kinds(start(workdir, splits, second)) == {second}
    start(workdir, splits, first)
    replace(splits["train"], MIDDLE)
    with pytest.raises(InputError, match="the train split differs"):
        check_splits(workdir, splits, first)  # a weaker one replaces none


def test_an_unknown_kind_is_named(workdir, splits):
    record(workdir, {"train": "pixels:12"})
    with pytest.raises(InputError, match="manifest.json.*'pixels'.*known: names, sample, contents"):
        check_splits(workdir, splits, "auto")


def test_the_time_is_printed_where_it_is_long(workdir, splits, monkeypatch, capsys):
    check_splits(workdir, splits, "auto")
    assert not capsys.readouterr().out
    monkeypatch.setattr(data_check, "_NOTICEABLE", -1.0)
    monkeypatch.setattr(data_check, "_CHEAP", 29_999)
    check_splits(workdir, splits, "contents")
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("reading all of the 3 train images")
    assert second.startswith("fingerprint of the 3 train images in 0.")
    assert "2 test images" in third and "names and contents" in third


def test_arrays_have_no_kind(workdir):
    splits = {"train": Split(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int32))}
    found = start(workdir, splits)
    assert found == {"train": splits["train"].fingerprint()} and ":" not in found["train"]
    assert start(workdir, splits) == found
