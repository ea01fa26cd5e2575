"""Runs docs/sjd2.ipynb and keeps what its cells print and show: `make pictures` does it too.

Its metadata name the weights that it ran with; `tests/test_notebook.py` says when they are others.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import nbformat
from docs_pictures import DOCS, ROOT, made_of
from nbclient import NotebookClient

NOTEBOOK = DOCS / "sjd2.ipynb"


def executed(path: Path = NOTEBOOK) -> Any:
    """The notebook with the outputs of a fresh run.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an error.
    """
    notebook = nbformat.read(path, as_version=4)
    # The kernel imports what is in this checkout, installed or not.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    )
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(ROOT))
    for cell in notebook.cells:
        cell.metadata = {}  # when it ran
        if cell.cell_type == "code":
            # Bars and warnings are for those who wait.
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
            for output in cell.outputs:
                if "image/jpeg" in output.get("data", {}):
                    output.data.pop("image/png")  # the same, ten times as large
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "weights": made_of()["weights"],
    }
    return notebook


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=NOTEBOOK, metavar="FILE")
    nbformat.write(executed(), parser.parse_args().out)
