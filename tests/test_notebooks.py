"""Notebooks are stored without results, are on the site, and run from the first cell to the last."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def name(path):
    return path.stem


def test_every_notebook_is_on_the_site():
    listed = re.findall(r"^notebooks/(\w+)$", (ROOT / "docs/index.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [path.stem for path in NOTEBOOKS]
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_is_stored_without_what_a_run_leaves(path):
    text = path.read_text()
    book = nbformat.reads(text, 4)
    nbformat.validate(book)
    assert nbformat.writes(book) + "\n" == text
    assert book.metadata == METADATA
    for cell in book.cells:
        assert not cell.metadata
        assert cell.cell_type == "markdown" or (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """In a kernel of this Python, in an empty directory, with no settings of the person who tests."""
    write_kernel_spec(tmp_path / "kernels" / "python3")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    (tmp_path / "work").mkdir()
    book = nbformat.read(path, 4)
    place = {"metadata": {"path": str(tmp_path / "work")}}
    NotebookClient(book, timeout=300, extra_arguments=["--log-level=ERROR"], resources=place).execute()
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert all(output.data["text/plain"] for output in outputs if output.output_type == "display_data")
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output.text for output in outputs if "Warning" in output.get("text", "")]
