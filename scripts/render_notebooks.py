"""Runs the notebooks and writes what they show to docs/notebooks/.

    TFDS_DATA_DIR=data python scripts/render_notebooks.py

It takes about ten minutes on two CPU cores; JAXCIFAR_NOTEBOOK=full trains longer.
"""

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "notebooks"


def main() -> None:
    """Runs and renders each notebook."""
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as runs:
        os.environ["JAXCIFAR_NOTEBOOK_RUNS"] = runs
        for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
            notebook = nbformat.read(path, as_version=4)
            resources = {"metadata": {"path": str(path.parent)}}
            NotebookClient(notebook, timeout=None, resources=resources).execute()
            page = render(notebook).replace(runs, "runs").replace(f"{ROOT}/", "")
            (OUT / f"{path.stem}.html").write_text(page)
            print(OUT / f"{path.stem}.html")


def render(notebook: nbformat.NotebookNode) -> str:
    """Returns the HTML of a notebook that has been run; it needs no network."""
    exporter = HTMLExporter(mathjax_url="", require_js_url="")
    page, _ = exporter.from_notebook_node(notebook)
    return page


if __name__ == "__main__":
    main()
