import os
import shutil

import pytest

from jaxcifar import environment
from jaxcifar.kernels import native


@pytest.fixture(scope="session")
def native_compiler() -> str:
    """The compiler that built the C++ convolutions.

    A test that needs it is skipped only where there is no compiler; a failed build is a failure.
    """
    if not environment.cpu_settings_allowed(os.environ):
        pytest.skip("the C++ convolutions are switched off")
    if shutil.which(os.environ.get("CXX") or "c++") is None:
        pytest.skip("no C++ compiler")
    compiler = native.compiler()
    assert compiler is not None, "the C++ convolutions could not be built; see the warning"
    return compiler


@pytest.fixture(params=["native", "xla"])
def kind(request, monkeypatch):
    """Selects the C++ kernels or XLA's, one after the other."""
    if request.param == "xla":
        monkeypatch.setattr(native, "compiler", lambda: None)
    else:
        request.getfixturevalue("native_compiler")
    return request.param
