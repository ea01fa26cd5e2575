"""docs/sjd2.ipynb: it runs, and what it shows is kept, small, and of the model that ships."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "sjd2.ipynb"


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def said(notebook: Any) -> str:
    return "".join(
        "".join(output.get("text", ""))
        for cell in code_cells(notebook)
        for output in cell["outputs"]
    )


def test_the_outputs_are_kept_small_and_whole() -> None:
    """Kills: a notebook without outputs, run in another order, with an error, or of megabytes."""
    notebook = json.loads(NOTEBOOK.read_text())
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) == 2
    assert "the same tokens: True" in said(notebook)
    assert NOTEBOOK.stat().st_size < 100_000


def test_the_notebook_ran_with_the_model_that_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: pictures and figures of weights that are no longer there."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    weights = importlib.import_module("docs_pictures").made_of()["weights"]
    kept = json.loads(NOTEBOOK.read_text())["metadata"]["weights"]
    assert kept == weights, "docs/sjd2.ipynb is stale: make pictures"


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: a call that the library no longer takes."""
    pytest.importorskip("nbclient", reason="nbclient is not installed: make install")
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    notebook = importlib.import_module("docs_notebook").executed()
    assert "the same tokens: True" in said(notebook)
    assert len(said(notebook).splitlines()) == len(
        said(json.loads(NOTEBOOK.read_text())).splitlines()
    )
