"""The notebooks are run as a reader would, one after the other, in a folder of their own."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples" / "notebooks").glob("*.ipynb"))
SHORTER = {"STEPS = 300": "STEPS = 4"}  # of a training whose images nobody looks at


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_valid_and_bears_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not outputs(notebook)
    assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")


def test_the_notebooks_do_what_they_say(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    made = {}
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            for old, new in SHORTER.items():
                cell.source = cell.source.replace(old, new)
        NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
        made[path.stem] = outputs(notebook)
    texts = {name: "".join(o.get("text", "") for o in found) for name, found in made.items()}
    texts = {name: re.sub(r"\x1b\[[\d;]*m", "", text.replace("\r\n", "\n")) for name, text in texts.items()}
    assert not any("\x1b" in text or "\r" in text for text in texts.values()), "colours, but no cursor moves"
    first, second, third = (texts[path.stem] for path in NOTEBOOKS)
    assert "120 rows: ok 120" in first
    then, now = (int(re.search(rf"kept {when}: (\d+)", first)[1]) for when in ("before", "now"))
    assert 0 < now < then == 120
    assert "everything" in second
    assert "samples: drawn/grid.png" in third
    pictures = [sum("image/png" in o.get("data", {}) for o in found) for found in made.values()]
    assert pictures == [1, 2, 1]
