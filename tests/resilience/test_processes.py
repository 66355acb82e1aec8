"""Joining the processes of a run; whole runs of several processes are in tests/runs."""

import pytest

from jaxcifar.errors import InputError
from jaxcifar.resilience import processes


@pytest.mark.parametrize(
    "variable, value, message",
    [
        ("JAX_NUM_PROCESSES", "two", "JAX_NUM_PROCESSES=two: must be"),
        ("JAX_PROCESS_ID", "", "JAX_PROCESS_ID=: must be"),
        ("JAX_COORDINATOR_ADDRESS", "host0", "JAX_COORDINATOR_ADDRESS=host0: must be host:port"),
    ],
)
def test_bad_environment_variables_are_named(monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=message):
        processes.start(True)


def test_a_single_process_needs_no_others():
    processes.start(False)
    processes.barrier()
    assert processes.gather_int(7) == [7]
