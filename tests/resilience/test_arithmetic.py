"""Convolutions and threads that are recorded, and what a resume with others does."""

import pytest

from jaxcifar.errors import InputError
from jaxcifar.kernels import native
from jaxcifar.resilience import arithmetic
from tests.helpers import make_config


def test_what_is_recorded_names_the_convolutions_and_the_threads(monkeypatch):
    monkeypatch.setenv("NPROC", "5")
    found = arithmetic.describe()
    assert found["convolutions"] == (native.compiler() or arithmetic.XLA)
    assert found["threads"] == 5
    assert len(found["bits"]) == 16 and found["instructions"]


@pytest.mark.usefixtures("as_on_a_gpu")
def test_nothing_is_recorded_on_a_gpu():
    assert arithmetic.describe() == {}


def test_xlas_convolutions_count_as_others(monkeypatch, tmp_path):
    saved = arithmetic.describe()
    if saved["convolutions"] == arithmetic.XLA:
        pytest.skip("no C++ convolutions")
    monkeypatch.setattr(native, "compiler", lambda: None)
    with pytest.raises(InputError, match="now   XLA, processor"):
        arithmetic.check(tmp_path, saved, make_config(), accept=False)
    (warning,) = arithmetic.check(tmp_path, saved, make_config(), accept=True)
    assert "other convolutions" in warning
    half = make_config(train__precision="float16")  # never in C++
    assert arithmetic.check(tmp_path, saved, half, accept=False) == []


def test_another_compiler_with_the_same_bits_is_accepted(tmp_path):
    saved = arithmetic.describe() | {"convolutions": "another compiler"}
    assert arithmetic.check(tmp_path, saved, make_config(), accept=False) == []


def test_other_threads_are_reported_where_they_matter(monkeypatch, tmp_path):
    saved = arithmetic.describe() | {"threads": 77}
    half = make_config(train__precision="bfloat16")
    (warning,) = arithmetic.check(tmp_path, saved, half, accept=False)
    assert "instead of 77" in warning
    monkeypatch.setattr(native, "compiler", lambda: "c++")
    flag = "--xla_cpu_experimental_ynn_fusion_type=-REDUCE"
    monkeypatch.setenv("XLA_FLAGS", flag)
    config = make_config()
    assert not arithmetic._depends_on_threads(config)
    monkeypatch.setenv("XLA_FLAGS", "")
    assert arithmetic._depends_on_threads(config)
