"""The notebooks: stripped of outputs, valid, and run from end to end in their smoke form."""

import ast
import os

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers import REPOSITORY, USERS_XLA_FLAGS

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_valid_and_has_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 8
    for cell in cells:
        assert cell.outputs == [] and cell.execution_count is None
        ast.parse(cell.source)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_rendered_in_the_docs(path):
    page = (REPOSITORY / "docs" / "notebooks" / f"{path.stem}.html").read_text()
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown" and cell.source.startswith("#"):
            heading = cell.source.splitlines()[0].lstrip("# ")
            assert heading in page
    assert page.count("data:image/png;base64,") > 5


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXCIFAR_NOTEBOOK", "smoke")
    monkeypatch.setenv("JAXCIFAR_NOTEBOOK_RUNS", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", USERS_XLA_FLAGS)
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    drawn = sum(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert drawn >= 8
    assert [name for name in os.listdir(tmp_path) if not name.endswith(".log")]
