"""Notebook 10 on SmolLM2-135M-Instruct, with the heuristic judge as a stand-in."""

import os
import resource
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

from dpo_tutorial.models import load_model

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
CORE_SECONDS = 720  # six minutes of two cores; a busy machine does not change it


def used() -> float:
    """Processor seconds of the processes that this one started and that ended."""
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds.ru_utime + seconds.ru_stime


@pytest.mark.slow
def test_the_recipe_runs_on_smollm2():
    try:
        load_model("smollm2")
    except OSError as error:
        if "package index" not in str(error):
            raise
        pytest.skip(str(error))
    book = jupytext.read(NOTEBOOKS / "src" / "10_recipes.py")
    resources = {"metadata": {"path": str(NOTEBOOKS)}}
    client = NotebookClient(
        book, timeout=1800, kernel_name="python3", resources=resources
    )
    before = used()
    client.execute(env=os.environ | {"DPO_TUTORIAL_MODEL": "smollm2"})
    assert used() - before < CORE_SECONDS
    printed = "".join(
        output.get("text", "")
        for cell in book.cells
        for output in cell.get("outputs", [])
    )
    assert "134.5 million parameters" in printed
    assert "heuristic, by arbiter: win rate" in printed
    assert "outputs, all equal" in printed
