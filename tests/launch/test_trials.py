"""Which runs a sweep has, and which of them are one machine's share."""

from pathlib import Path

import pytest

from jaxcifar.errors import InputError
from jaxcifar.launch.trials import Trial, shard

RUNS = [Trial(Path(str(number)), None, []) for number in range(10)]


def names(part):
    return [int(run.workdir.name) for run in shard(RUNS, part)]


def test_shards_share_all_runs_evenly(monkeypatch):
    assert names("1/4") == [1, 5, 9] and names("3/4") == [3, 7]
    together = [name for index in range(4) for name in names(f"{index}/4")]
    assert sorted(together) == list(range(10))
    assert names("0/1") == list(range(10))
    assert names("15/16") == []


@pytest.mark.parametrize("variable", ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"])
def test_the_index_may_be_that_of_the_job(monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    assert names("3") == [2, 5, 8]
    assert names("0/3") == [0, 3, 6, 9]  # what is given has precedence
    monkeypatch.setenv(variable, "3")
    with pytest.raises(InputError, match="--shard=3: the index 3 must be from 0 to 2"):
        shard(RUNS, "3")
    monkeypatch.setenv(variable, "x")
    with pytest.raises(InputError, match=f"{variable}=x is not an index"):
        shard(RUNS, "3")


@pytest.mark.parametrize(
    "part, message",
    [
        ("16/16", "the index 16 must be from 0 to 15"),
        ("1/0", "the index 1 must be from"),
        ("a/b", "must be an index from 0 and a number, e.g. 3/16"),
        ("-1/4", "must be an index from 0 and a number"),
        ("4", "no index: none of SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX is set"),
    ],
)
def test_other_shards_are_refused(part, message):
    with pytest.raises(InputError, match=message):
        shard(RUNS, part)
